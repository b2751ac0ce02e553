"""Make the site's tables and some rows."""

import django
from django.core.management import call_command

django.setup()

from shop.models import Author, Book  # NOQA: E402

if __name__ == "__main__":
    call_command("migrate", run_syncdb=True, verbosity=0)
    if not Author.objects.exists():
        for number in range(10):
            author = Author.objects.create(name=f"Author {number}")
            Book.objects.bulk_create(
                Book(author=author, title=f"Book {n}", price=n) for n in range(100)
            )
