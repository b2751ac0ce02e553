"""
Tests of scripts/tree, run as its users run it, on a base of a few small files.
"""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TOOL = ROOT / "scripts" / "tree"

LINES = "".join(f"line_{number} = {number}\n" for number in range(1, 31))
BASE = {
    "PKG-INFO": "Metadata-Version: 2.1\nName: Django\nVersion: 1.0\n",
    "pyproject.toml": "[project]\nname = 'Django'\n",
    "Django.egg-info/SOURCES.txt": "made by a build\n",
    "django/__init__.py": (
        "from django.utils.version import get_version\n\n"
        "VERSION = (1, 0)\n\n__version__ = get_version(VERSION)\n"
    ),
    "django/db/utils.py": LINES,
    "django/db/old.py": "old = True\n",
    "tests/backends/tests.py": "import sys\nimport os\n\nbadly  =  1\nkept = 2\n",
    "docs/index.txt": "Index\n=====\n",
}
SERIES = """\
[pool]
subject = Refs #NNNNN -- Added a pool.
body =
    One paragraph, of more than seventy-two columns, that the tool has to fill.

    Another one.
files =
    django/db/pool/*

[rest]
subject = Refs #NNNNN -- Changed the rest.
files =
    *
    !django/db/pool/*
"""


def has_linters():
    modules = ("black", "isort", "flake8")
    commands = ([sys.executable, "-m", name, "--version"] for name in modules)
    runs = (subprocess.run(command, capture_output=True) for command in commands)
    return all([run.returncode == 0 for run in runs])


class TreeTests(unittest.TestCase):
    def setUp(self):
        # The repository's place has a space in it, as people's have.
        self.scratch = Path(tempfile.mkdtemp(prefix="tree tests ")).resolve()
        self.addCleanup(shutil.rmtree, self.scratch)
        self.repo = self.scratch / "repo"
        self.build = self.repo / "build"
        self.write("scripts/pooltools/series.ini", SERIES)
        self.write("django/db/pool/__init__.py", "SIZE = 10\n")
        self.write("pyproject.toml", (ROOT / "pyproject.toml").read_text())
        self.write("setup.cfg", (ROOT / "setup.cfg").read_text())
        self.pin(BASE)

    # Helpers.

    def write(self, path, text):
        file = self.repo / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def read(self, path):
        return (self.repo / path).read_text()

    def pin(self, files, version="1.0"):
        """Make an sdist of the files, and it the base of the repository."""
        self.sdist = self.scratch / f"django-{version}.tar.gz"
        with tarfile.open(self.sdist, "w:gz") as archive:
            for path, text in files.items():
                info = tarfile.TarInfo(f"django-{version}/{path}")
                info.size = len(text.encode())
                archive.addfile(info, io.BytesIO(text.encode()))
        digest = hashlib.sha256(self.sdist.read_bytes()).hexdigest()
        line = f"Django=={version} --hash=sha256:{digest}\n"
        self.write("scripts/pooltools/base.txt", f"# The base.\n{line}")

    def run_tool(self, *arguments):
        command = [sys.executable, TOOL, *arguments, f"--repo={self.repo}"]
        # No real base may come from a test, and no cache be written.
        env = {**os.environ, "XDG_CACHE_HOME": str(self.scratch / "cache")}
        return subprocess.run(
            [*command, f"--build={self.build}"],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )

    def tool(self, *arguments):
        result = self.run_tool(*arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def failure(self, *arguments):
        """Return what a run that must fail says."""
        result = self.run_tool(*arguments)
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertNotIn("Traceback", result.stderr)
        return result.stderr

    def assemble(self, *arguments):
        return self.tool("assemble", f"--sdist={self.sdist}", *arguments)

    def git(self, *arguments, directory=None):
        return subprocess.run(
            ["git", *arguments],
            cwd=directory or self.build,
            check=True,
            stdout=subprocess.PIPE,
            universal_newlines=True,
        ).stdout

    def edit(self, path, old, new):
        file = self.build / path
        text = file.read_text()
        self.assertIn(old, text)
        file.write_text(text.replace(old, new))

    def assemble_with_patch(self):
        """Assemble a tree with one patch, of line 15 of django/db/utils.py."""
        self.assemble()
        self.edit("django/db/utils.py", "line_15 = 15", "line_15 = 'ours'")
        self.tool("refresh")
        return self.repo / "django/db/utils.py.patch"


class AssembleTests(TreeTests):
    def test_first_commit_is_the_untouched_base(self):
        self.assemble_with_patch()
        history = self.git("rev-list", "--reverse", "HEAD").split()
        self.assertEqual(len(history), 2)
        self.assertEqual(history[0], self.git("rev-parse", "base").strip())
        files = {path for path in BASE if "egg-info" not in path}
        listing = self.git("ls-tree", "-r", "--name-only", "base")
        self.assertEqual(set(listing.splitlines()), files)
        for path in files:
            self.assertEqual(self.git("show", f"base:{path}"), BASE[path])

    def test_new_files_are_live_links(self):
        self.assemble()
        link = self.build / "django/db/pool/__init__.py"
        self.assertTrue(link.is_symlink())
        link.write_text("SIZE = 20\n")
        self.assertEqual(self.read("django/db/pool/__init__.py"), "SIZE = 20\n")

    def test_only_django_tests_and_docs_are_linked(self):
        self.write("README.rst", "Ours.\n")
        self.write("scripts/other.py", "")
        self.write("django/__pycache__/x.pyc", "")
        self.assemble()
        self.assertFalse((self.build / "README.rst").exists())
        self.assertFalse((self.build / "scripts").exists())
        self.assertFalse((self.build / "django/__pycache__").exists())
        text = (self.build / "pyproject.toml").read_text()
        self.assertEqual(text, BASE["pyproject.toml"])

    def test_assembling_again_touches_nothing(self):
        self.assemble_with_patch()
        files = [path for path in self.build.rglob("*") if ".git" not in path.parts]
        before = {path: path.lstat().st_mtime_ns for path in files}
        self.tool("assemble")
        self.assertEqual(before, {path: path.lstat().st_mtime_ns for path in files})
        self.assertEqual(self.git("status", "--short"), "")

    def test_changes_of_the_repository_arrive(self):
        patch = self.assemble_with_patch()
        patch.write_text(patch.read_text().replace("'ours'", "'other'"))
        self.write("tests/pool/tests.py", "")
        (self.repo / "django/db/pool/__init__.py").unlink()
        self.tool("assemble")
        self.assertIn("'other'", (self.build / "django/db/utils.py").read_text())
        self.assertTrue((self.build / "tests/pool/tests.py").is_symlink())
        self.assertFalse((self.build / "django/db/pool").exists())
        self.tool("check", "--no-lint")

    def test_unrefreshed_edits_survive(self):
        self.assemble()
        self.edit("django/db/utils.py", "line_2 = 2", "line_2 = 'edit'")
        self.write("tests/pool/tests.py", "")
        self.assertIn("not refreshed yet: django/db/utils.py", self.tool("assemble"))
        self.assertIn("'edit'", (self.build / "django/db/utils.py").read_text())
        self.assertTrue((self.build / "tests/pool/tests.py").is_symlink())

    def test_unrefreshed_edits_are_protected(self):
        patch = self.assemble_with_patch()
        patch.write_text(patch.read_text().replace("'ours'", "'other'"))
        self.edit("django/db/utils.py", "line_2 = 2", "line_2 = 'edit'")
        message = self.failure("assemble")
        self.assertIn("django/db/utils.py", message)
        self.assertIn("--force", message)
        self.assertIn("'edit'", (self.build / "django/db/utils.py").read_text())
        self.tool("assemble", "--force")
        text = (self.build / "django/db/utils.py").read_text()
        self.assertNotIn("'edit'", text)
        self.assertIn("'other'", text)

    def test_lost_link_is_restored(self):
        self.assemble()
        (self.build / "django/db/pool/__init__.py").unlink()
        self.tool("assemble")
        self.assertTrue((self.build / "django/db/pool/__init__.py").is_symlink())

    def test_wrong_hash_is_refused(self):
        self.sdist.write_bytes(self.sdist.read_bytes() + b"x")
        message = self.failure("assemble", f"--sdist={self.sdist}")
        self.assertIn(str(self.sdist), message)
        self.assertIn("sha256", message)
        self.assertFalse(self.build.exists())

    def test_malformed_pin_is_refused(self):
        self.write("scripts/pooltools/base.txt", "Django==1.0\n")
        message = self.failure("assemble", f"--sdist={self.sdist}")
        self.assertIn("base.txt must hold one line", message)

    def test_foreign_directory_is_left_alone(self):
        self.write("build/precious.txt", "Mine.\n")
        message = self.failure("assemble", f"--sdist={self.sdist}")
        self.assertIn("isn't a tree that this tool made", message)
        self.assertEqual(self.read("build/precious.txt"), "Mine.\n")

    def test_copy_of_an_upstream_file_is_refused(self):
        self.write("django/db/utils.py", LINES)
        message = self.failure("assemble", f"--sdist={self.sdist}")
        self.assertIn("The base has these files already", message)
        self.assertIn("django/db/utils.py", message)

    def test_patch_of_a_missing_file_is_named(self):
        patch = self.assemble_with_patch()
        patch.rename(patch.with_name("nowhere.py.patch"))
        message = self.failure("assemble")
        self.assertIn("nowhere.py.patch: the base has no django/db/nowhere.py", message)

    def test_patch_of_another_file_is_refused(self):
        patch = self.assemble_with_patch()
        patch.rename(patch.with_name("old.py.patch"))
        message = self.failure("assemble")
        self.assertIn("  django/db/utils.py", message)


class RefreshTests(TreeTests):
    def test_round_trip(self):
        patch = self.assemble_with_patch()
        lines = patch.read_text().splitlines()
        self.assertEqual(
            lines[:4],
            [
                "diff --git a/django/db/utils.py b/django/db/utils.py",
                "--- a/django/db/utils.py",
                "+++ b/django/db/utils.py",
                "@@ -12,7 +12,7 @@ line_11 = 11",
            ],
        )
        self.assertIn("+line_15 = 'ours'", lines)
        self.tool("check", "--no-lint")
        self.assertIn("Nothing to refresh", self.tool("refresh"))
        shutil.rmtree(self.build)
        self.assemble()
        self.assertIn("'ours'", (self.build / "django/db/utils.py").read_text())
        self.tool("check", "--no-lint")

    def test_words_above_a_patch_are_kept(self):
        patch = self.assemble_with_patch()
        patch.write_text("Why: a pool needs it.\n\n" + patch.read_text())
        self.tool("assemble")
        self.edit("django/db/utils.py", "'ours'", "'ours too'")
        self.tool("refresh")
        text = patch.read_text()
        self.assertTrue(text.startswith("Why: a pool needs it.\n\ndiff --git"))
        self.assertIn("'ours too'", text)
        self.tool("check", "--no-lint")

    def test_undone_edit_deletes_the_patch(self):
        patch = self.assemble_with_patch()
        self.edit("django/db/utils.py", "'ours'", "15")
        self.tool("refresh")
        self.assertFalse(patch.exists())
        self.tool("check", "--no-lint")

    def test_file_at_the_root(self):
        self.assemble()
        self.edit("pyproject.toml", "Django", "Djangoo")
        own = self.read("pyproject.toml")
        self.tool("refresh")
        self.assertIn("+name = 'Djangoo'", self.read("pyproject.toml.patch"))
        self.assertEqual(self.read("pyproject.toml"), own)
        self.tool("check", "--no-lint")

    def test_deleted_upstream_file(self):
        self.assemble()
        (self.build / "django/db/old.py").unlink()
        self.tool("refresh")
        self.assertIn("+++ /dev/null", self.read("django/db/old.py.patch"))
        shutil.rmtree(self.build)
        self.assemble()
        self.assertFalse((self.build / "django/db/old.py").exists())
        self.tool("check", "--no-lint")

    def test_new_file_is_moved_and_linked(self):
        self.assemble()
        made = self.build / "tests" / "pool" / "tests.py"
        made.parent.mkdir()
        made.write_text("import django\n")
        (made.parent / "__pycache__").mkdir()
        (made.parent / "__pycache__" / "tests.pyc").write_text("")
        self.tool("refresh")
        self.assertTrue(made.is_symlink())
        self.assertEqual(self.read("tests/pool/tests.py"), "import django\n")
        self.assertFalse((self.repo / "tests/pool/__pycache__").exists())
        self.tool("check", "--no-lint")

    def test_new_file_elsewhere_is_refused(self):
        self.assemble()
        (self.build / "notes.txt").write_text("")
        self.edit("django/db/utils.py", "line_2 = 2", "line_2 = 'edit'")
        self.assertIn("notes.txt: new files belong below", self.failure("refresh"))
        self.assertFalse((self.repo / "django/db/utils.py.patch").exists())

    def test_file_in_the_place_of_a_link(self):
        # As editors leave it that save by renaming.
        self.assemble()
        link = self.build / "django/db/pool/__init__.py"
        link.unlink()
        link.write_text("SIZE = 30\n")
        self.assertIn("django/db/pool/__init__.py", self.failure("check", "--no-lint"))
        self.tool("refresh")
        self.assertTrue(link.is_symlink())
        self.assertEqual(self.read("django/db/pool/__init__.py"), "SIZE = 30\n")

    def test_edit_of_both_sides_is_refused(self):
        patch = self.assemble_with_patch()
        text = patch.read_text().replace("'ours'", "'other'")
        patch.write_text(text)
        self.edit("django/db/utils.py", "line_2 = 2", "line_2 = 'edit'")
        message = self.failure("refresh")
        self.assertIn("django/db/utils.py: edited here", message)
        self.assertEqual(patch.read_text(), text)

    def test_patch_that_only_the_repository_changed_is_kept(self):
        patch = self.assemble_with_patch()
        text = patch.read_text().replace("'ours'", "'other'")
        patch.write_text(text)
        self.edit("docs/index.txt", "Index", "The index")
        self.tool("refresh")
        self.assertEqual(patch.read_text(), text)
        self.assertIn("'other'", (self.build / "django/db/utils.py").read_text())

    def test_without_a_tree(self):
        for command in ("refresh", "check", "series"):
            with self.subTest(command):
                self.assertIn("run scripts/tree assemble", self.failure(command))


class NewBaseTests(TreeTests):
    def test_patch_that_no_longer_applies_is_named(self):
        self.assemble_with_patch()
        self.pin({**BASE, "django/db/utils.py": "rewritten = True\n"}, "1.1")
        message = self.failure("assemble", f"--sdist={self.sdist}")
        self.assertIn("django/db/utils.py.patch", message)
        self.assertIn("--reject", message)

    def test_rest_of_a_patch_is_worked_in_by_hand(self):
        patch = self.assemble_with_patch()
        self.edit("django/db/utils.py", "line_2 = 2", "line_2 = 'ours'")
        self.tool("refresh")
        lines = LINES.replace("line_14 = 14", "line_14 = 'theirs'")
        self.pin({**BASE, "django/db/utils.py": lines}, "1.1")
        self.assertIn("did not apply wholly", self.assemble("--reject"))
        text = (self.build / "django/db/utils.py").read_text()
        self.assertIn("line_2 = 'ours'", text)
        self.assertIn("line_15 = 15", text)
        self.assertIn("django/db/utils.py.rej", self.failure("refresh"))
        self.edit("django/db/utils.py", "line_15 = 15", "line_15 = 'ours'")
        (self.build / "django/db/utils.py.rej").unlink()
        self.tool("refresh")
        self.assertIn(" line_14 = 'theirs'", patch.read_text())
        self.assertIn("+line_15 = 'ours'", patch.read_text())
        self.tool("check", "--no-lint")

    def test_offset_is_found_and_refreshed(self):
        patch = self.assemble_with_patch()
        self.pin({**BASE, "django/db/utils.py": "# More.\n" + LINES}, "1.1")
        self.assemble()
        self.assertIn(str(patch), self.failure("check", "--no-lint"))
        self.tool("refresh")
        self.assertIn("@@ -13,7 +13,7 @@", patch.read_text())
        self.tool("check", "--no-lint")

    def test_unrefreshed_edits_are_protected(self):
        self.assemble()
        self.edit("docs/index.txt", "Index", "The index")
        self.pin({**BASE, "docs/index.txt": "Contents\n"}, "1.1")
        message = self.failure("assemble", f"--sdist={self.sdist}")
        self.assertIn("docs/index.txt", message)
        self.assemble("--force")
        text = (self.build / "docs/index.txt").read_text()
        self.assertEqual(text, "Contents\n")


class CheckTests(TreeTests):
    def test_trailing_whitespace(self):
        self.assemble()
        self.edit("docs/index.txt", "Index", "Index ")
        self.tool("refresh")
        message = self.failure("check", "--no-lint")
        self.assertIn("docs/index.txt:1: trailing whitespace", message)

    def test_tree_behind_the_repository(self):
        self.assemble()
        self.write("tests/pool/tests.py", "")
        message = self.failure("check", "--no-lint")
        self.assertIn("Run scripts/tree assemble", message)
        self.assertIn("tests/pool/tests.py", message)

    @unittest.skipUnless(has_linters(), "needs black, isort and flake8")
    def test_style(self):
        self.assemble()
        # What the base has already is not ours to correct.
        self.edit("tests/backends/tests.py", "kept = 2", "kept = 3")
        self.tool("refresh")
        self.tool("check")
        self.edit("tests/backends/tests.py", "import os", "import os\nimport re")
        self.write(
            "django/db/pool/__init__.py", f"import sys\n\n#{' x' * 40}\na =  1\n"
        )
        self.write("scripts/demo", "#!/usr/bin/env python3\nimport sys, os\n")
        self.tool("refresh")
        message = self.failure("check")
        for line in (
            "django/db/pool/__init__.py: not formatted as black does",
            "django/db/pool/__init__.py:1: F401 'sys' imported but unused",
            "django/db/pool/__init__.py:3: W505 doc line too long (81 > 79",
            "scripts/demo: imports not sorted as isort does",
            "tests/backends/tests.py:3: F401 're' imported but unused",
        ):
            with self.subTest(line):
                self.assertIn(line, message)
        self.assertNotIn("'os' imported but unused", message.split("tests/backends")[1])


class SeriesTests(TreeTests):
    def test_series_gives_the_tree(self):
        self.assemble_with_patch()
        (self.build / "django/db/old.py").unlink()
        self.tool("refresh")
        output = self.scratch / "series"
        self.tool("series", f"--output={output}")
        mails = sorted(output.iterdir())
        self.assertEqual(len(mails), 2)
        # Once more, by hand.
        checkout = self.scratch / "checkout"
        self.git("clone", "-q", str(self.build), str(checkout))
        identity = ("-c", "user.name=x", "-c", "user.email=x@localhost")
        self.git("checkout", "-q", "--detach", "base", directory=checkout)
        self.git(*identity, "am", "-q", *map(str, mails), directory=checkout)
        subjects = self.git("log", "-2", "--format=%s", directory=checkout)
        self.assertEqual(
            subjects.splitlines(),
            ["Refs #NNNNN -- Changed the rest.", "Refs #NNNNN -- Added a pool."],
        )
        body = self.git("log", "-1", "--format=%b", "HEAD~1", directory=checkout)
        self.assertLessEqual(max(map(len, body.splitlines())), 72)
        self.assertIn("\n\nAnother one.\n", body)
        for path in ("django/db/utils.py", "django/db/pool/__init__.py"):
            text = (self.build / path).read_text()
            self.assertEqual((checkout / path).read_text(), text)
            self.assertFalse((checkout / path).is_symlink())
        self.assertFalse((checkout / "django/db/old.py").exists())
        version = (checkout / "django/__init__.py").read_text()
        self.assertEqual(version, BASE["django/__init__.py"])

    def test_same_state_gives_the_same_mails(self):
        self.assemble_with_patch()
        contents = []
        for name in ("one", "two"):
            output = self.scratch / name
            self.tool("series", f"--output={output}")
            mails = sorted(output.iterdir())
            contents.append([(mail.name, mail.read_bytes()) for mail in mails])
        self.assertEqual(*contents)

    def test_file_of_no_commit_is_named(self):
        self.assemble()
        self.write("scripts/pooltools/series.ini", SERIES.replace("/pool/*", "/x/*", 1))
        for command in ("series", "check"):
            with self.subTest(command):
                message = self.failure(command)
                self.assertIn("django/db/pool/__init__.py: none", message)

    def test_file_of_two_commits_is_named(self):
        self.assemble()
        self.write("scripts/pooltools/series.ini", SERIES.replace("    !", "    "))
        message = self.failure("series")
        self.assertIn("django/db/pool/__init__.py: pool, rest", message)

    def test_long_subject_is_refused(self):
        self.assemble()
        series = SERIES.replace("a pool", "a pool " + "x" * 60)
        self.write("scripts/pooltools/series.ini", series)
        self.assertIn("at most 72 columns", self.failure("series"))

    def test_unrefreshed_edit_is_refused(self):
        self.assemble()
        self.edit("docs/index.txt", "Index", "The index")
        self.assertIn("scripts/tree check", self.failure("series"))


class PackageTests(TreeTests):
    def test_built_tree_has_files_and_the_version(self):
        self.assemble_with_patch()
        target = self.scratch / "package"
        code = (
            "import sys; from pathlib import Path\n"
            "from pooltools import build_backend, tree_base, tree_repo\n"
            "repo, sdist, target = sys.argv[1:]\n"
            "tree_base.fetch = lambda repo: sdist\n"
            "build_backend.write_tree(tree_repo.Repository(repo), Path(target))\n"
        )
        command = [sys.executable, "-c", code, self.repo, self.sdist, target]
        subprocess.run(command, cwd=ROOT / "scripts", check=True)
        init = (target / "django/__init__.py").read_text()
        self.assertIn('__version__ = get_version(VERSION) + "+pool.', init)
        self.assertIn("VERSION = (1, 0)", init)
        self.assertIn("'ours'", (target / "django/db/utils.py").read_text())
        self.assertFalse((target / "django/db/pool/__init__.py").is_symlink())


if __name__ == "__main__":
    unittest.main()
