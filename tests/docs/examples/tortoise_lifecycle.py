from asynctasq import init, RedisConfig
from tortoise import Tortoise

# Initialize AsyncTasQ with Tortoise auto-initialization
init(
    {
        'driver': 'redis',
        'redis': RedisConfig(url='redis://localhost:6379'),
    },
    tortoise_config={
        'db_url': 'postgres://user:pass@localhost/db',
        'modules': {'models': ['app.models']},
        # Production connection pool settings
        'use_tz': True,
        'timezone': 'UTC',
        'minsize': 5,    # Minimum connections in pool
        'maxsize': 20,   # Maximum connections in pool
    }
)

# Workers will automatically:
# 1. Initialize Tortoise with these settings on first model access
# 2. Reuse connections efficiently
# 3. Handle connection cleanup on shutdown
