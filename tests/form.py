"""The form of a test run, which the environment variable `TESTS` names.

* Not set, as for `make test`: the tests with the marker `full_form` are left out.
* `full`, as for `make test-full`: none is.
* `release`: the trials under load run with the numbers of a release, and on every broker; what the docs promise in seconds is
  measured. That takes hours: name the folders, and let a test take longer than pytest does otherwise, by
  `-o faulthandler_timeout=900`.
"""

import os
from typing import Final

FORMS: Final = ("", "full", "release")

_FORM: Final = os.environ.get("TESTS", "")
if _FORM not in FORMS:
    raise ValueError(f"TESTS is 'full', 'release' or not set: not '{_FORM}'")

FULL: Final = _FORM != ""
"""True if the tests with the marker `full_form` run as well."""

RELEASE: Final = _FORM == "release"
"""True if trials run with the numbers of a release."""
