from tortoise.models import Model
from tortoise import fields
from asynctasq import task

class User(Model):
    id = fields.IntField(pk=True)
    email = fields.CharField(max_length=255)

class Product(Model):
    id = fields.IntField(pk=True)
    name = fields.CharField(max_length=255)
    price = fields.DecimalField(max_digits=10, decimal_places=2)

@task(queue='notifications')
async def send_purchase_confirmation(user: User, product: Product, quantity: int):
    """Both models are automatically serialized and fetched."""
    # Models are fetched in parallel with asyncio.gather() for efficiency
    print(f"Sending confirmation to {user.email}")
    print(f"Product: {product.name} x {quantity}")
    print(f"Total: ${product.price * quantity}")
