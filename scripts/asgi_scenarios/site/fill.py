"""Make the tables, and what's read from them."""

import django

ITEMS = 50


def main():
    django.setup(set_prefix=False)
    from django.db import connection

    from .models import Entry, Item

    with connection.schema_editor() as editor:
        for model in (Item, Entry):
            editor.create_model(model)
    Item.objects.bulk_create(Item(pk=n, name=f"Item {n}") for n in range(1, ITEMS + 1))


if __name__ == "__main__":
    main()
