import pytest
from tortoise import Tortoise
from tortoise.contrib.test import initializer, finalizer

@pytest.fixture(scope="session")
async def db():
    # Initialize test database
    await initializer(
        modules={'models': ['app.models']},
        db_url='sqlite://:memory:',
    )
    yield
    await finalizer()

@pytest.mark.asyncio
async def test_task_with_tortoise_model(db):
    from app.models import User
    from app.tasks import send_welcome_email

    # Create test user
    user = await User.create(email='test@example.com', name='Test User')

    # Test task execution
    task = send_welcome_email(user=user)
    await task.execute()  # Direct execution for testing

    # Verify results
    assert user.email == 'test@example.com'
