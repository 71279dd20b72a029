"""The shop over HTTP."""

import json

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from .models import Customer, Order
from .tasks import charge, count_sales


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
