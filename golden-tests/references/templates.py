"""Renders the chat templates beside the output file with transformers' own renderer."""

import datetime
import json
from pathlib import Path

from jinja2.exceptions import TemplateError
from transformers.utils import chat_template_utils

from template_cases import CASES

NOW = datetime.datetime(2024, 2, 9, 8, 5, 7)


class FixedClock:
    """Stands where the renderer looks for `datetime`, so that strftime_now has one answer."""

    @staticmethod
    def now():
        return NOW


def outcome(source, case):
    arguments = {"add_generation_prompt": False} | case.get("kwargs", {})
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            conversations=[case["messages"]], tools=case.get("tools"), chat_template=source, **arguments
        )
    except (TemplateError, TypeError, ValueError) as error:
        return {"error": str(error), "error_kind": type(error).__name__}
    return {"rendered": rendered[0]}


def make(templates):
    """Reads `templates/*.jinja`, writes `templates/cases.json`."""
    chat_template_utils.datetime = FixedClock
    unused = {path.name for path in templates.glob("*.jinja")} - {case["template"] for case in CASES}
    assert not unused, f"every template has a case: {unused}"
    cases = []
    for case in CASES:
        source = Path(templates, case["template"]).read_text()
        entry = {
            "template": case["template"],
            "messages": case["messages"],
            "tools": case.get("tools"),
            "kwargs": case.get("kwargs", {}),
        }
        if "strftime_now" in source:
            entry["now"] = NOW.isoformat()
        cases.append(entry | outcome(source, case))
    (templates / "cases.json").write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")
    return cases
