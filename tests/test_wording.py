"""What commands print: options instead of arguments, and names without control characters."""

from __future__ import annotations

import ast
import re
import warnings

import pandas as pd
import pytest
import typer
from repository import REPOSITORY
from typer.core import TyperOption
from typer.main import get_command
from typer.testing import CliRunner

from audiointerp.cli.commands import app
from audiointerp.cli.skipped import report_skipped
from audiointerp.cli.wording import RENAMED, Command, say, say_error, say_table, translate
from audiointerp.dataset.choose import PATH_OPTIONS

COMMANDS = get_command(app).commands
COMMANDS = {name: command for name, command in COMMANDS.items() if name != "data"} | {
    f"data {name}": command for name, command in COMMANDS["data"].commands.items()
}
OPTIONS = {
    name: [each for each in command.params if isinstance(each, TyperOption)]
    for name, command in COMMANDS.items()
}
PYTHON_ONLY = {
    # declared of a module of one's own, which is Python
    *("activation_axes", "backend", "classes", "duration", "fold_batch_norm", "licence"),
    *("output", "outputs", "target_layers"),
    *("channels", "prepare", "size"),
    # of models of Hugging Face
    *("dither", "feature_extractor", "padding", "problem_type", "texts", "tokenizer", "truncation"),
    # no option of any command, which give what fits
    *("attempts", "domain", "hide", "num_classes", "path", "read", "resamples", "sample_rate"),
}
HINT = re.compile(r"(?<![\w?&./'])([a-z][a-z_]*)=(?!=)")


def hints() -> dict[str, str]:
    """Return the arguments that errors and warnings of the library name, and where."""
    found = {}
    for path in sorted((REPOSITORY / "audiointerp").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            function = getattr(node, "func", None)
            called = getattr(function, "attr", getattr(function, "id", ""))
            if isinstance(node, ast.Raise) or called in ("warn", "error", "Finding", "add_check"):
                texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
                for name in HINT.findall(" ".join(text for text in texts if isinstance(text, str))):
                    found[name] = f"{path.name}:{node.lineno}"
    return found


def test_every_argument_that_a_message_names_is_an_option_or_python_only():
    options = {option.name for of_command in OPTIONS.values() for option in of_command}
    named = hints()
    assert {"overwrite", "resume", "separator", "window"} <= named.keys()
    unknown = {
        name: where
        for name, where in named.items()
        if RENAMED.get(name, name) not in options | PATH_OPTIONS.keys() | PYTHON_ONLY
    }
    assert not unknown
    assert set(RENAMED.values()) <= options
    assert not PYTHON_ONLY & (options | PATH_OPTIONS.keys()) - {"duration", "path"}


@pytest.mark.parametrize(
    ("command", "message", "expected"),
    [
        (
            "train",
            "out holds a training: pass resume=True to go on, overwrite=True to begin anew",
            "out holds a training: pass --resume to go on, --overwrite to begin anew",
        ),
        ("train", "spec_augment=False", "--no-spec-augment"),
        ("train", "head='binary' is for one output", "--head binary is for one output"),
        ("train", "clips=0: expected at least 1", "--clips 0: expected at least 1"),
        ("experiment", "(alpha=0.5, snr_db=-3.5)", "(--alpha 0.5, --snr-db -3.5)"),
        ("experiment", "say cache_dir=… or masks='bin'", "say --cache … or --mask bin"),
        ("interpret", "such as window=10, or start=…", "such as --window 10, or --start …"),
        (
            "experiment",
            "say what separates the labels, separator=';'",
            "say what separates the labels, separator=; (options of a set follow its path: "
            "--data 'PATH?separator=;')",
        ),
        (
            "interpret",
            "splits=False if all are classes",
            "splits=False if all are classes (options of a set follow its path: "
            "--background 'PATH?splits=False')",
        ),
        ("tables", "overwrite=True", "overwrite=True"),  # no option of this command
        ("train", "call build_head(head='sigmoid')", "call build_head(head='sigmoid')"),
        ("train", "/a/width=3, x_width=3, width=3.wav", "/a/width=3, x_width=3, width=3.wav"),
        ("train", "set.csv?head=3&width=2 is wrong", "set.csv?head=3&width=2 is wrong"),
    ],
)
def test_a_message_in_the_options_of_a_command(command, message, expected):
    assert translate(message, OPTIONS[command]) == expected


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_of_a_command_is_spelled_as_the_command_takes_it(command):
    for option in OPTIONS[command]:
        spelled = translate(f"{option.name}=True", OPTIONS[command]).split(" ")[0]
        assert spelled in option.opts
        if option.secondary_opts:
            assert translate(f"{option.name}=False", OPTIONS[command]) in option.secondary_opts


def test_errors_warnings_and_skipped_clips_speak_of_options_while_a_command_runs():
    seen = []
    small = typer.Typer()

    @small.command(cls=Command)
    def act(overwrite: bool = False, window: float = 1.0) -> None:
        seen.append(warnings.formatwarning("take window=10\x1b[1m", UserWarning, "file", 1))
        with pytest.raises(typer.Exit):
            report_skipped({"a\x1b[2J": "needs overwrite=True"})
        raise FileExistsError("pass overwrite=True")

    before = warnings.formatwarning
    result = CliRunner().invoke(small, [])
    assert isinstance(result.exception, FileExistsError)
    assert str(result.exception) == "pass --overwrite"
    assert seen == ["warning: take --window 10\\x1b[1m\n"]
    assert r"  a\x1b[2J: needs --overwrite" in result.output
    assert warnings.formatwarning is before


def test_names_are_printed_with_the_codes_of_their_control_characters(capsys):
    say("dog\x1b[2J\r\n\u202e雨")
    say_error(ValueError("first \x1b]0;x\x07\nerror: second"))
    table = pd.DataFrame({"a\x1b": ["b\x9b", 1.5]}, pd.Index(["c\nd", "e"], name="x\x1b"))
    say_table(table)
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == r"dog\x1b[2J\r\n\u202e雨"
    assert err == "error: first \\x1b]0;x\\x07\n  error: second\n"
    assert not [sign for sign in out + err if sign != "\n" and not sign.isprintable()]
    assert len(out.splitlines()) == 1 + 4


def test_commands_print_through_one_place():
    for path in (REPOSITORY / "audiointerp" / "cli").glob("*.py"):
        # What is printed after Ctrl-C holds no names, and must not wait for imports.
        if path.name not in ("wording.py", "stop.py"):
            assert not re.search(r"\b(typer\.(echo|secho)|print)\(", path.read_text("utf-8")), path
