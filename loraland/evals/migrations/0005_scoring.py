from django.db import migrations, models

import loraland.evals.models


class Migration(migrations.Migration):

    dependencies = [
        ('evals', '0004_drawn_rows'),
    ]

    operations = [
        # What is here was scored by the first rules.
        migrations.AddField(
            model_name='run',
            name='scoring',
            field=models.PositiveSmallIntegerField(default=1, help_text='The rules that scored it.'),
        ),
        migrations.AlterField(
            model_name='run',
            name='scoring',
            field=models.PositiveSmallIntegerField(default=loraland.evals.models.rules_of_today, help_text='The rules that scored it.'),
        ),
    ]
