"""The outbox, and the calls of atomic tasks that are done."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """As `models` has them."""

    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="Outbox",
            fields=[
                ("id", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("queue", models.CharField(max_length=200)),
                ("body", models.BinaryField()),
                ("due", models.FloatField(null=True)),
                ("priority", models.SmallIntegerField()),
                ("policy", models.BinaryField(null=True)),
            ],
            options={"db_table": "asynctasq_outbox"},
        ),
        migrations.CreateModel(
            name="Done",
            fields=[
                ("id", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("result", models.BinaryField(null=True)),
                ("done_at", models.FloatField()),
            ],
            options={
                "db_table": "asynctasq_done",
                "indexes": [models.Index(fields=["done_at"], name="asynctasq_done_done_at")],
            },
        ),
    )
