"""Models of the pages on Django, with a user and two orders; import it once Django is set up."""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.db import connection, models


class User(models.Model):
    """Somebody."""

    name = models.CharField(max_length=100)  # type: ignore[var-annotated]

    class Meta:
        app_label = "shop"


class Order(models.Model):
    """Of a user."""

    user = models.ForeignKey(User, on_delete=models.CASCADE)  # type: ignore[var-annotated]
    is_paid = models.BooleanField(default=False)  # type: ignore[var-annotated]

    class Meta:
        app_label = "shop"


@sync_to_async
def setup() -> None:
    """Make tables and rows."""
    with connection.schema_editor() as editor:
        editor.create_model(User)
        editor.create_model(Order)
    ada = User.objects.create(name="Ada")
    for _ in range(2):
        Order.objects.create(user=ada)


@sync_to_async
def teardown() -> None:
    """Close the connection of this thread."""
    connection.close()
