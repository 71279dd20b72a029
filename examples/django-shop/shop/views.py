"""The shop over HTTP."""

import json

from asynctasq import TaskStatus
from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from .models import Customer, Order
from .tasks import add_up_orders, charge, count_sales, write_report


@csrf_exempt  # for programs, which send no cookies
@require_POST
def order(request: HttpRequest) -> JsonResponse:
    """Take an order; it is paid in the background, once it is committed."""
    new = json.loads(request.body)
    with transaction.atomic():
        customer, _ = Customer.objects.get_or_create(email=new["email"])
        order = Order.objects.create(customer=customer, amount=new["amount"])
        charge(order, customer.pk).dispatch_sync()
    count_sales().delay(0.5).dispatch_sync()
    return JsonResponse({"id": order.pk}, status=202)


def show(request: HttpRequest, order_id: int) -> JsonResponse:
    """How an order stands."""
    found = get_object_or_404(Order, pk=order_id)
    return JsonResponse({"is_paid": found.is_paid, "receipts": found.receipts})


@csrf_exempt
@require_POST
def report(request: HttpRequest) -> JsonResponse:
    """Have a report written; its address tells how far it is."""
    handle = add_up_orders().then(write_report).dispatch_sync()
    return JsonResponse({"id": handle.id}, status=202)


def show_report(request: HttpRequest, report_id: str) -> JsonResponse:
    """The report, or how far it is."""
    handle = write_report.handle(report_id)
    info = handle.info_sync()
    if info.state == TaskStatus.DONE:
        return JsonResponse({"state": info.state, "report": handle.result_sync()})
    told = handle.parent.progress_sync() if handle.parent is not None else None
    done = told.fraction if told else None
    return JsonResponse({"state": info.state, "done": done, "reason": info.reason})
