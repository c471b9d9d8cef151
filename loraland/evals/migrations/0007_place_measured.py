from django.db import migrations


class Migration(migrations.Migration):
    """What was measured already is placed by `loraland.evals.standings.complete`, which `manage.py import_results` and
    Celery call: today's rules read today's columns, which the tables have once all migrations are through."""

    dependencies = [
        ('evals', '0006_standing'),
        ('catalogue', '0010_listed_adapter'),
    ]

    operations = []
