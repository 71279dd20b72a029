from tortoise.models import Model
from tortoise import fields
from asynctasq import task

class Article(Model):
    id = fields.IntField(pk=True)
    title = fields.CharField(max_length=255)
    author = fields.ForeignKeyField('models.User', related_name='articles')

    class Meta:
        table = "articles"
        indexes = [("author_id", "created_at")]  # Composite index

@task(queue='articles')
async def publish_article(article: Article):
    # Model is fetched with SELECT query
    # Use prefetch_related in dispatch context to avoid N+1 queries
    print(f"Publishing: {article.title}")

    # Efficient bulk operations
    await Article.filter(author_id=article.author_id).update(status='published')
