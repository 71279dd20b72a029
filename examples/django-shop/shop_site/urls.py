"""The addresses of the shop."""

from django.contrib import admin
from django.urls import path
from shop import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("orders/", views.order),
    path("orders/<int:order_id>/", views.show),
    path("reports/", views.report),
    path("reports/<str:report_id>/", views.show_report),
]
