"""The command `kvreplay`: find the verb, run it, and turn every mistake into one sentence and an exit code."""

import contextlib
import difflib
import os
import sys
from collections.abc import Callable, Sequence

from traces.errors import KvreplayError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def _run(arguments: Sequence[str]) -> int:
    from replay.run import main as run

    return run(arguments)


def _traces(arguments: Sequence[str]) -> int:
    from traces.cli import main as traces

    return traces(list(arguments)) or OK


def _compare(arguments: Sequence[str]) -> int:
    from replay.study.compare import main as compare

    return compare(arguments)


def _regret(arguments: Sequence[str]) -> int:
    from replay.study.regret import main as regret

    return regret(arguments)


def _bounds(arguments: Sequence[str]) -> int:
    from replay.study.bounds import main as bounds

    return bounds(arguments)


def _place(arguments: Sequence[str]) -> int:
    from replay.study.place import main as place

    return place(arguments)


def _variability(arguments: Sequence[str]) -> int:
    from replay.study.variability import main as variability

    return variability(arguments)


def _profile(arguments: Sequence[str]) -> int:
    from replay.fidelity.verb import main as profile

    return profile(arguments)


def _tune(arguments: Sequence[str]) -> int:
    from replay.study.tune import main as tune

    return tune(arguments)


def _capacity(arguments: Sequence[str]) -> int:
    from replay.study.capacities import main as capacity

    return capacity(arguments)


def _predict(arguments: Sequence[str]) -> int:
    from replay.study.predict import main as predict

    return predict(arguments)


def _report(arguments: Sequence[str]) -> int:
    from replay.report.verb import main as report

    return report(arguments)


def _policies(arguments: Sequence[str]) -> int:
    from replay.catalogue import main as policies

    return policies(arguments)


# verb -> (what it does, function)
VERBS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "run": ("replay a trace: kvreplay run [key=value | group=name ...] [-m to run every combination]", _run),
    "compare": ("configurations side by side, with statistics: kvreplay compare key=a,b [as run]", _compare),
    "regret": ("what routing decisions cost, by hindsight: kvreplay regret [regret.sample=300] [as run]", _regret),
    "bounds": ("a run beside the same with one cause of delay taken away: kvreplay bounds [as run]", _bounds),
    "place": ("search prefill and decode instances for a trace: kvreplay place [place.target=0.9] [as run]", _place),
    "capacity": ("the highest rate that keeps targets: kvreplay capacity [capacity.target=0.9] [as run -m]", _capacity),
    "tune": ("search tunables and other keys for the best: kvreplay tune [study.trials=100] [as run]", _tune),
    "variability": ("training against inference, where waiting goes: kvreplay variability [as run]", _variability),
    "profile": ("hardware from measurements: kvreplay profile build|calibrate|observe|measure|validate", _profile),
    "predict": ("train and judge length predictors: kvreplay predict train|evaluate|gain [as run]", _predict),
    "report": ("an HTML page about runs and studies: kvreplay report FOLDER... [report.out=FILE] | --help", _report),
    "traces": ("import, describe, cut and fetch request traces: kvreplay traces --help", _traces),
    "policies": ("list the policies and their tunables: kvreplay policies [slot] [plugins=[my.py]]", _policies),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    argv    : arguments after the command's name; None for those of the process
    returns : exit code: 0 well, 1 a mistake or a failed run, 2 wrong usage, 130 interrupted
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return OK if arguments else USAGE
    if arguments[0] in ("-V", "--version"):
        from replay import __version__

        print(f"kvreplay {__version__}")
        return OK
    verb, *rest = arguments
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        return _complain(f"there is no verb '{verb}'; the verbs are {', '.join(VERBS)}.{hint}", USAGE)
    return _guarded(VERBS[verb][1], rest)


def usage() -> str:
    """Return the text of --help."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {text}" for verb, (text, _) in VERBS.items())
    return (
        "kvreplay replays LLM request traces through an exact model of a disaggregated inference cluster.\n\n"
        f"usage: kvreplay VERB [arguments]\n\n{verbs}\n\n"
        "  --version prints the version; KVREPLAY_DEBUG=1 shows the trace behind an error"
    )


def _guarded(verb: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    try:
        return verb(arguments)
    except SystemExit as leaving:  # argument parsers end the process after --help or an unknown flag
        return leaving.code if isinstance(leaving.code, int) else OK if leaving.code is None else USAGE
    except KeyboardInterrupt:
        return _complain("interrupted.", INTERRUPTED)
    except BrokenPipeError:
        # The reader of a pipe (head, less) went away; nothing more can be said to it, not even at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if os.environ.get("KVREPLAY_DEBUG") == "1":
            raise
        return _complain(_told(error), FAILED)


def _told(error: Exception) -> str:
    if isinstance(error, KvreplayError):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError):
        return "the memory of this machine is not enough for this replay. Use fewer requests, or a window of the trace."
    text = " ".join(str(error).split()) or "no message"
    return f"unexpected {type(error).__name__}: {text} (KVREPLAY_DEBUG=1 shows where; please report it)."


def _complain(text: str, code: int) -> int:
    print(f"kvreplay: {' '.join(text.split())}", file=sys.stderr)
    return code
