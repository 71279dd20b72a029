from tortoise import Tortoise, fields
from tortoise.models import Model
from asynctasq import task

class User(Model):
    id = fields.IntField(pk=True)
    email = fields.CharField(max_length=255)
    name = fields.CharField(max_length=100)
    is_active = fields.BooleanField(default=True)

    class Meta:
        table = "users"

@task(queue='users')
async def send_welcome_email(user: User):
    # Initialize Tortoise in task if needed (checks if already initialized)
    if not Tortoise._inited:
        await Tortoise.init(
            db_url='postgres://user:pass@localhost/db',
            modules={'models': ['app.models']},
            # Optional: Production connection pool settings
            connection_config={
                'min_pool_size': 5,
                'max_pool_size': 20,
            }
        )

    # Access model data - automatically fetched if not already loaded
    print(f"Sending welcome email to {user.email}")
    print(f"User active: {user.is_active}")

    # Update model after processing
    user.is_active = True
    await user.save()

# Dispatch task
async def main():
    await Tortoise.init(
        db_url='postgres://user:pass@localhost/db',
        modules={'models': ['app.models']}
    )

    user = await User.get(id=1)
    await send_welcome_email(user=user).dispatch()

    await Tortoise.close_connections()
