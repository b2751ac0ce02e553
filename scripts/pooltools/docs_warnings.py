"""
Build documentation and print what Sphinx complains about.

    python docs_warnings.py SOURCE OUTPUT

Only what changed since the last build into OUTPUT is read, and nothing is
written but what Sphinx needs to know that. Other projects' documentation isn't
asked for: references to it are complained about.
"""

import io
import sys

from sphinx.application import Sphinx
from sphinx.util.console import nocolor

source, output = sys.argv[1:]
nocolor()
warnings = io.StringIO()
app = Sphinx(
    source,
    source,
    output,
    output,
    "dummy",
    confoverrides={"intersphinx_mapping": {}},
    status=None,
    warning=warnings,
    parallel=2,
)
app.build()
print(warnings.getvalue())
