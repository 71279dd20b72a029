"""Orders in the admin, to which dead letters link."""

from django.contrib import admin

from .models import Customer, Order

admin.site.register([Customer, Order])
