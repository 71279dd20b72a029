from tortoise import fields
from tortoise.models import Model
from asynctasq import init, task, RedisConfig

# Define your Tortoise model
class User(Model):
    id = fields.IntField(pk=True)
    email = fields.CharField(max_length=255, index=True)
    name = fields.CharField(max_length=100)
    created_at = fields.DatetimeField(auto_now_add=True)

    class Meta:
        table = "users"

# Initialize AsyncTasQ with Tortoise auto-initialization
init(
    {
        'driver': 'redis',
        'redis': RedisConfig(url='redis://localhost:6379')
    },
    tortoise_config={
        'db_url': 'postgres://user:pass@localhost/db',
        'modules': {'models': ['app.models']},
        # Optional: Connection pool configuration
        'use_tz': True,
        'timezone': 'UTC',
    }
)

# Define task - Tortoise auto-initializes when user is accessed
@task(queue='users')
async def send_welcome_email(user: User):
    # Tortoise model automatically serialized as reference on dispatch
    # Model auto-fetched from database when accessed in worker
    # Connection automatically initialized using config from init()
    print(f"Sending welcome email to {user.email}")
    print(f"User created at: {user.created_at}")

# Dispatch task
async def main():
    from tortoise import Tortoise

    # Initialize Tortoise in dispatch context (your API/app)
    await Tortoise.init(
        db_url='postgres://user:pass@localhost/db',
        modules={'models': ['app.models']}
    )
    await Tortoise.generate_schemas()  # Create tables if needed

    # Fetch user and dispatch task
    user = await User.get(id=1)
    # Only user.id (PK) is serialized to queue - 90%+ payload reduction
    await send_welcome_email(user=user).dispatch()

    # Clean up
    await Tortoise.close_connections()
