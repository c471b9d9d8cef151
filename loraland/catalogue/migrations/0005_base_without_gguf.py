"""A base that is served from a .gguf file is called without that ending; so are the bases that adapters name."""

from django.db import migrations


def take_the_ending_off(apps, schema_editor):
    Adapter = apps.get_model('catalogue', 'Adapter')
    for adapter in Adapter.objects.filter(base__endswith='.gguf'):
        adapter.base = adapter.base.removesuffix('.gguf')
        adapter.save(update_fields=['base'])


class Migration(migrations.Migration):

    dependencies = [
        ('catalogue', '0004_proofs'),
    ]

    operations = [
        migrations.RunPython(take_the_ending_off, migrations.RunPython.noop),
    ]
