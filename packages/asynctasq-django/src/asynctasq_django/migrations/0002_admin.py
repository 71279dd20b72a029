"""What Django's admin shows has permissions, and no tables."""

from django.db import migrations, models


def _without_table(name: str, **options: object) -> migrations.CreateModel:
    return migrations.CreateModel(
        name=name,
        fields=[("id", models.CharField(max_length=64, primary_key=True, serialize=False))],
        options={
            **options,
            "managed": False,
            "default_permissions": ("view", "change", "delete"),
        },
    )


class Migration(migrations.Migration):
    """As `models` has them."""

    dependencies = (("asynctasq_django", "0001_tables"),)
    operations = (
        _without_table("DeadCall", verbose_name="dead letter"),
        _without_table("Queue"),
    )
