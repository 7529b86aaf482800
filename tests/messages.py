"""Collection of the messages that a user sees, for the catalogue, and its update: `make catalogue`.

A message is any text of two words or more in the sources that is no docstring, log line or text for developers; the
help of the three programs; words of a closed list; and the texts of Click, Typer, pydantic and the operating system.
"""

import ast
import io
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import typer  # noqa: E402 - from here on the checkout is importable
from babel.messages.catalog import Catalog  # noqa: E402
from babel.messages.mofile import write_mo  # noqa: E402
from babel.messages.pofile import read_po, write_po  # noqa: E402

from rvc_engine import events  # noqa: E402
from rvc_engine.translation.messages import CLOSED, DOMAIN, LOCALES  # noqa: E402
from rvc_train.schemas import datasets, jobs, webhooks, workers  # noqa: E402

CATALOGUE = LOCALES / "zh" / "LC_MESSAGES" / f"{DOMAIN}.po"
HEADER = """\
# Chinese texts of the command lines. `make catalogue` updates the messages; the translations are written by hand.
# A place such as {path!r} or {seconds:.1f} is written {path} or {seconds} in the translation."""


class Message(NamedTuple):
    """An entry of the catalogue."""

    text: str
    context: str | None = None
    place: str = ""
    """File that has it."""


def listed(names: str) -> tuple[str, ...]:
    """Names that are separated by white space."""
    return tuple(names.split())


SOURCES = ("rvc_engine", "rvc_train", "server", "worker", "rvc_training_pipeline.py")
NO_MESSAGES = listed(
    """
    rvc_engine/card/card.py rvc_engine/card/markdown.py rvc_engine/compute/out_of_memory.py
    rvc_engine/pitch/neural/crepe_model.py
    rvc_engine/translation/messages.py rvc_train/synchronous/ server/__main__.py
    server/admin/backup.py server/admin/cli.py server/admin/doctor.py server/api/pages.py server/context.py
    server/api/problems.py server/database/ server/http/problem_types.py server/logging.py server/metrics.py
    server/openapi.py server/pages/ server/scheduling/queue.py server/settings.py
    server/storage/ worker/__main__.py worker/engine/checkpoint_sync.py worker/engine/job_log.py
    worker/reporting/heartbeat.py worker/reporting/retry.py worker/reporting/spool.py
    """
)
"""Files whose texts no user of these programs sees, or that are English everywhere: SQL, the API's description, the
pages, a voice's card, what only the log of a server or worker has, and the generated client, whose texts are those of
`rvc_train/asynchronous/`."""
NO_MESSAGE_CALLS = frozenset(
    listed(
        """
    APIRouter Annotated Argument Body FastAPI Field Form Header Literal Option Path Query Text Typer add_typer
    _suffixes bind compile getLogger match search startswith sub
    """
    )
)
"""Calls whose texts are the API's description, a pattern or the help, which is read from the programs."""
NO_MESSAGE_KEYWORDS = frozenset(["help", "metavar", "epilog", "description", "summary", "response_description"])
NO_MESSAGE_TEXTS = re.compile(
    r"/v1/.*|(The|A|An|One|It|No change:|Not ready;|Sent|Changes|Address|Unchanged|All files|Prometheus) .*"
    r"|(private,|text/plain|attachment|bytes[ =]|Bearer|header|retry:|bold|pip install|module|Upload recordings) ?.*"
    r"|(content|worker|instance|address|(quota|conversions) of) \{\w+\}|dataset list|rvc-train admin|Value error, "
    r"| --weights .*"
    r"|RVC_TRAIN_DATA_FOLDER.*|.*'none'.*|.*\{separator\}.*|\{id\}\nexport .*|Checksum Mismatch|[^a-z]*"
    r"|(wav|zip) [a-z0-9 ]*|microphone=.*|<\{\w+\}>; rel=.*",
    re.DOTALL,
)
"""Texts of two words that are no messages: descriptions of the API, headers, names, what is cut off when shown."""
WRAPPERS = frozenset(
    listed(
        """
    abs ceil format_bytes int len map max min next quote repr round shorten translated_word sorted str sum
    """
    )
)
"""Calls that a place is not named after, but after their argument."""
TWO_WORDS = re.compile(r"[A-Za-z]{2,}[,:;.)'\"!]* +\S*[A-Za-z{]|[}] +[A-Za-z]{2,}|[A-Za-z]{2,} +[({]")


WORDS = {
    "state": listed(
        """
    started finished skipped present missing damaged verified unverified waiting fetching failed fetched
    revoked valid on off ended
    """
    ),
    "kind": listed(
        """
    voice index speaker_index best report card job dataset worker workspace cache
    """
    ),
    "held_out": ["held-out", "training"],
    "retry_from": ["checkpoint", "start"],
    "severity": ["warning", "info", "error"],
    "default": ["yes", "no", "not set"],
    "mark": ["best", "current", "never", "unknown", "usable"],
    "basis": ["measured", "unknown"],
    "progress": ["converting"],
    "unit": ["s", "min", "h"],
    "range": ["to"],
    "fact": (
        *listed(
            """
    size sha256 epoch step optimizer encoder speakers named name author created info tensors type rows nprobe
    search
    """
        ),
        "learning rate",
    ),
    "value": ["works"],
    "service": ["server", "worker"],
    "metric": ["mel", "similarity"],
    "column": (
        *listed(
            """
    ID VOICE STATUS STAGE DONE EPOCH MEL ETA SUBMITTED NAME FILES SPEECH SIZE UPLOADED FILE LENGTH RATE
    CHANNELS CODEC FAULT PLACE HOST DEVICE JOB SEEN STEP SIMILARITY PREVIEW OWNER BEGINS SCOPES STATE TIME
    ACTOR ADDRESS ACTION TARGET URL EVENTS MESSAGE EVENT TRIES ANSWER SENT id file MB state USED
    VERSIONS VERSION CURRENT NEWEST CHANGED FOR ENDS USES
    """
        ),
        "LAST USED",
        "STARTS IN",
        "ENDS IN",
        "OVER NOISE",
        "SCORE",
        "WITHOUT THE VOICE",
        "THIS VOICE",
        "SPEAKER'S OWN",
        "NOT USED",
        "PITCH ERROR",
        "VOICING ERROR",
    ),
}
"""Words that a place of a message, or a cell of a table, may have; the key is gettext's context."""
LIBRARY_MESSAGES = (
    # Click and Typer.
    "error: ",
    "Usage: ",
    "Options",
    "Arguments",
    "Commands",
    "Error",
    "Aborted.",
    "Aborted!",
    "(deprecated) ",
    "(dynamic)",
    "required",
    "[required]",
    "[default: {}]",
    "[env var: {}]",
    "default: {default}",
    "env var: {var}",
    "Try [blue]'{command_path} {help_option}'[/] for help.",
    "Show this message and exit.",
    "Missing command.",
    "Missing option {param_hint}.",
    "Missing argument {param_hint}.",
    "Missing parameter: {param_name}",
    "No such option: {option_name}",
    "No such command {name!r}.",
    "(Possible options: {possibilities})",
    "Got unexpected extra argument ({args})",
    "Got unexpected extra arguments ({args})",
    "Invalid value for {param_hint}: {message}",
    "Invalid value: {message}",
    "Option {option_name!r} requires an argument.",
    "Option {opt!r} does not take a value.",
    "{value!r} is not one of {choices}.",
    "{value!r} is not a valid {type}.",
    "{value} is not in the range {range}.",
    "File {filename!r} does not exist.",
    "Directory {filename!r} does not exist.",
    "Path {filename!r} does not exist.",
    "File {filename!r} is a directory.",
    "Directory {filename!r} is a file.",
    "File {filename!r} is not readable.",
    "Did you mean {names}?",
    # pydantic.
    "Input should be {expected}",
    "Input should be a valid integer",
    "Input should be a valid integer, unable to parse string as an integer",
    "Input should be a valid integer, got a number with a fractional part",
    "Input should be a valid number",
    "Input should be a valid number, unable to parse string as a number",
    "Input should be a valid string",
    "Input should be a valid boolean",
    "Input should be a valid boolean, unable to interpret input",
    "Input should be a valid dictionary",
    "Input should be a valid list",
    "Input should be a finite number",
    "Input should be greater than {gt}",
    "Input should be greater than or equal to {ge}",
    "Input should be less than {lt}",
    "Input should be less than or equal to {le}",
    "String should have at least {min_length:d} character",
    "String should have at least {min_length:d} characters",
    "String should have at most {max_length:d} characters",
    "String should match pattern '{pattern}'",
    "List should have at least {min_length:d} item after validation, not {actual_length:d}",
    "Dictionary should have at most {max_length:d} items after validation, not {actual_length:d}",
    "Extra inputs are not permitted",
    "Field required",
    # The operating system and the network.
    "No such file or directory",
    "No space left on device",
    "Permission denied",
    "Read-only file system",
    "Is a directory",
    "Not a directory",
    "File exists",
    "Disk quota exceeded",
    "Input/output error",
    "Too many open files",
    "Address already in use",
    "Connection refused",
    "[Errno {errno:d}] {strerror}",
    "[Errno {errno:d}] {strerror}: {filename!r}",
    "timed out",
    # Joined by `shorten`, or of a word for a stage.
    "{names} and {number:d} more",
    "slices and features {size}",
    "recovery checkpoints {size}",
    "the index {size:.1f} MB",
    "the index {size:.1f} GB",
    "the voice {size:.1f} MB",
    "the voice {size:.1f} GB",
    "{whole:d} s",
    "ETA {duration}",
    "{duration} ago",
    "note: {note}",
    "{id}  {name}  {size} in {files}, {status}",
    "{stage} started",
    "{stage} skipped",
    "{stage} finished",
    "{stage} finished in {seconds:.1f} s",
    "{stage} skipped in {seconds:.1f} s",
)
"""Messages of the libraries that the programs show, and those that the sources join from single words."""


def documentation(tree: ast.Module) -> set[ast.AST]:
    """Docstrings, those of fields included."""
    return {
        statement.value
        for node in ast.walk(tree)
        if isinstance(getattr(node, "body", None), list)
        for statement in vars(node)["body"]
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant | ast.JoinedStr)
    }


def name_of(value: ast.expr) -> str:  # noqa: PLR0911 - a return per kind of expression
    """A name for the place of a value in a template: the last identifier of its expression."""
    match value:
        case ast.Call(func=ast.Attribute(value=ast.Constant()), args=[argument, *_]):  # ", ".join(names)
            return name_of(argument)
        case ast.Call(func=ast.Name(id=name), args=args) if args:
            return name_of(args[-1]) if name in WRAPPERS else name_of(value.func)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name.strip("_").lower()
        case ast.Call(func=ast.Attribute() as function):
            return name_of(function.value if function.attr in WRAPPERS else function)
        case ast.Subscript(slice=ast.Constant(value=str(name))):
            return re.sub(r"\W", "_", name)
        case ast.Subscript() | ast.Starred():
            return name_of(value.value)
        case ast.IfExp(test=test):
            return name_of(test)
    inner = (node for node in ast.iter_child_nodes(value) if isinstance(node, ast.expr))
    return next((name for name in map(name_of, inner) if name != "value"), "value")


def template_of(node: ast.JoinedStr) -> str:
    """An f-string as a template: `{name}` for each value, with the format and conversion of the source."""
    names: dict[str, str] = {}
    parts = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(str(part.value).replace("{", "{{").replace("}", "}}"))
        elif isinstance(part, ast.FormattedValue):
            expression, name = ast.unparse(part.value), name_of(part.value)
            if expression not in names:
                taken = set(names.values())
                names[expression] = next(n for n in [name, *(f"{name}{i}" for i in range(2, 99))] if n not in taken)
            conversion = "" if part.conversion == -1 else f"!{chr(part.conversion)}"
            parts.append(f"{{{names[expression]}{conversion}{_number_format(part)}}}")
    return "".join(parts)


def _number_format(part: ast.FormattedValue) -> str:
    is_count = (
        isinstance(part.value, ast.Call) and isinstance(part.value.func, ast.Name) and part.value.func.id == "len"
    )
    if part.format_spec is None:
        return ":d" if is_count else ""
    form = "".join(str(piece.value) for piece in part.format_spec.values if isinstance(piece, ast.Constant))
    return f":{form}" if form[-1:] in tuple("defg%") else ":,d" if form == "," else ""


def choices_in(node: ast.JoinedStr) -> Iterator[tuple[str, str]]:
    """Place and word of each word that an f-string chooses with `a if ... else b`."""
    before = ""
    for part in node.values:
        is_ending, before = before[-1:].isalpha(), part.value if isinstance(part, ast.Constant) else ""
        if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.IfExp) and not is_ending:
            for branch in (part.value.body, part.value.orelse):
                if isinstance(branch, ast.Constant) and isinstance(branch.value, str) and branch.value.isalpha():
                    yield name_of(part.value), branch.value


def texts_in(node: ast.AST, ignored: set[ast.AST]) -> Iterator[Message]:  # noqa: PLR0911, PLR0912 - one per kind of node
    """Texts of a syntax tree, without those that are no messages."""
    if node in ignored or isinstance(node, ast.Assert | ast.Compare):
        return
    if isinstance(node, ast.Call):
        function = node.func
        called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if called in NO_MESSAGE_CALLS:
            return
        if isinstance(function, ast.Attribute) and ast.unparse(function.value).endswith(("log", "logger")):
            return  # a line of a log
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Constant) and called == "split":
            return  # a list of names
    match node:
        case ast.keyword(arg=name) if name in NO_MESSAGE_KEYWORDS:
            return
        case ast.Constant(value=str(text)) if TWO_WORDS.search(text):
            number = itertools.count(1)
            yield Message(re.sub(r"{(?=[:}])", lambda _: f"{{value{next(number)}", text))  # `{}` of a str.format
        case ast.JoinedStr():
            if is_specific(template := template_of(node)):
                yield Message(template)
            yield from (Message(text, context) for context, text in choices_in(node))
            for part in node.values:
                if isinstance(part, ast.FormattedValue):
                    yield from texts_in(part.value, ignored)
            return
        case ast.Subscript(value=ast.Name(id="Annotated" | "Literal")):
            return
    for child in ast.iter_child_nodes(node):
        yield from texts_in(child, ignored)


def is_specific(template: str) -> bool:
    """Whether a template of an f-string has words, and so much text of its own that no other message looks like it."""
    text = re.sub(r"{[^{}]*}", "", template)
    has_number = re.search(r"{\w+:[^}]*[defg%]}", template) is not None
    has_words = " " in template and re.search("[A-Za-z]{2}", text) is not None
    is_closed = has_number or bool(CLOSED & set(re.findall(r"{(\w+)", template)))
    return has_words and (is_closed or len(re.findall("[A-Za-z,;:]", text)) > 3)


def source_messages() -> Iterator[Message]:
    """Messages in the sources."""
    for source in SOURCES:
        path = ROOT / source
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            place = file.relative_to(ROOT).as_posix()
            if not place.startswith(NO_MESSAGES):
                tree = ast.parse(file.read_text(encoding="utf-8"))
                for message in texts_in(tree, documentation(tree)):
                    if not NO_MESSAGE_TEXTS.fullmatch(message.text):
                        yield message._replace(place=place)


def help_messages() -> Iterator[Message]:
    """Texts in the help of the programs."""
    from rvc_engine.cli import main as engine
    from rvc_engine.cli import pipeline_script
    from rvc_engine.translation.programs import SHOWN_TEXTS
    from rvc_train.cli import main as client

    commands = [typer.main.get_command(module.app) for module in (client, engine, pipeline_script)]
    while commands:
        command: Any = commands.pop()
        commands += getattr(command, "commands", {}).values()
        for shown in (command, *command.params):
            for attribute in SHOWN_TEXTS:
                text = getattr(shown, attribute, None)
                if isinstance(text, str) and text:
                    yield Message(text, place=f"help of {command.name}")


def words() -> Iterator[Message]:
    """Words of closed lists, by the place that they are a value of."""
    statuses = [
        *jobs.JobStatus,
        *datasets.DatasetStatus,
        *webhooks.DeliveryStatus,
        *engine_words(workers.WorkerPublic, "status"),
    ]
    yield from (Message(stage, "stage") for stage in events.STAGES)
    for context, texts in {"status": statuses, **WORDS}.items():
        yield from (Message(str(text), context) for text in texts)


def engine_words(model: Any, field: str) -> tuple[str, ...]:
    """The words that a field of a model may have."""
    return get_args(model.model_fields[field].annotation)


def messages() -> dict[tuple[str, str | None], Message]:
    """All messages by text and context."""
    found: dict[tuple[str, str | None], Message] = {}
    extra = (Message(text, place="library") for text in LIBRARY_MESSAGES)
    for message in itertools.chain(source_messages(), help_messages(), words(), extra):
        found.setdefault((message.text, message.context), message)
    return found


def read_catalogue() -> Catalog:
    """The catalogue as it is."""
    with CATALOGUE.open("rb") as file:
        return read_po(file, locale="zh", domain=DOMAIN)


def compiled(catalogue: Catalog) -> bytes:
    """A catalogue in gettext's binary form."""
    file = io.BytesIO()
    write_mo(file, catalogue)
    return file.getvalue()


def update_catalogue() -> list[Message]:
    """Bring the catalogue's messages up to date, compile it, and return the messages without a translation."""
    old = read_catalogue()
    new = Catalog(locale="zh", domain=DOMAIN, project="rvc-train", fuzzy=False, header_comment=HEADER)
    new.creation_date = new.revision_date = old.creation_date
    for message in messages().values():
        known = old.get(message.text, message.context)
        new.add(message.text, known.string if known else "", locations=[(message.place, None)], context=message.context)
    with CATALOGUE.open("wb") as file:
        write_po(file, new, width=120, include_lineno=False, sort_by_file=True)
    CATALOGUE.with_suffix(".mo").write_bytes(compiled(new))
    return [message for message in messages().values() if not new.get(message.text, message.context).string]


if __name__ == "__main__":
    for message in update_catalogue():
        print(f"no translation: {message.place}: {message.context or ''} {message.text!r}")
