from asynctasq import init, RedisConfig

# Pass your SQLAlchemy engine to AsyncTasQ for automatic cleanup
init({
    "driver": "redis",
    "redis": RedisConfig(url="redis://localhost:6379"),
    "sqlalchemy_engine": engine  # AsyncTasQ will dispose this on shutdown
})
