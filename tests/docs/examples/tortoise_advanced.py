from tortoise import fields
from tortoise.models import Model
from asynctasq import task
import logging

logger = logging.getLogger(__name__)

class Order(Model):
    id = fields.IntField(pk=True)
    user_id = fields.IntField()
    total = fields.DecimalField(max_digits=10, decimal_places=2)
    status = fields.CharField(max_length=50)

    class Meta:
        table = "orders"

@task(queue='orders', max_attempts=5, retry_delay=120)
async def process_order(order: Order):
    """Process order with automatic model fetching and error handling."""
    try:
        # Model is automatically fetched fresh from database
        logger.info(f"Processing order {order.id} with total ${order.total}")

        # Perform business logic
        order.status = 'processing'
        await order.save()

        # ... process payment, send notifications, etc.

        order.status = 'completed'
        await order.save()

    except Exception as e:
        logger.error(f"Order {order.id} processing failed: {e}")
        order.status = 'failed'
        await order.save()
        raise  # Re-raise to trigger AsyncTasQ retry mechanism
