"""One run's clock, its calls of grouper, and the table at its end."""
import contextlib
import importlib
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class OutOfTime(BaseException):
    """Not an Exception, so that no library takes it for a failure of its own."""


def short(error):
    """An error on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


class Report:
    def __init__(self, args):
        self.args, self.start, self.rows, self.skipped, self.environment = args, time.monotonic(), [], [], ""
        self.held = 0  # seconds that are left to what follows
        self._limits = []
        self._grouper_missing = False
        signal.signal(signal.SIGALRM, self._expired)

    # Time.
    def left(self):
        return self.args.seconds - self.held - (time.monotonic() - self.start)

    def _expired(self, *_):
        raise OutOfTime

    def _arm(self):
        if self._limits:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, min(self._limits) - time.monotonic()))
        else:
            signal.setitimer(signal.ITIMER_REAL, 0)

    @contextlib.contextmanager
    def part(self, name, seconds=None, reserve=0):
        """Runs a part for at most `seconds`, leaving `reserve` of the whole run's; a failure is noted and what follows goes on."""
        allowed = min(self.left() - reserve, math.inf if seconds is None else seconds)
        started = time.monotonic()
        self._limits.append(started + max(0.02, allowed))
        try:
            self._arm()
            yield
        except OutOfTime:
            self.skip(name, "no time left" if allowed < 1 else f"stopped after {time.monotonic() - started:.0f} s")
        except Exception as error:  # noqa: BLE001  (any: a library is missing, memory is short, an op is not there)
            self.skip(name, short(error))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)  # not in here
            self._limits.pop()
            self._arm()

    # Results.
    def say(self, text):
        print(text, flush=True)

    def skip(self, what, why):
        self.skipped.append((what, why))
        self.say(f"skipped {what}: {why}")

    def row(self, what, ours, theirs, ratio, how=""):
        """Texts, or None where there is nothing; the ratio says how many times as fast grouper is."""
        self.rows.append((what, ours or "-", theirs or "-", "-" if ratio is None else f"{ratio:.2f}", how))
        self.say(f"{what}: grouper {ours or '-'}, {self.args.theirs} {theirs or '-'}" + ("" if ratio is None else f", {ratio:.2f} x") + (f" ({how})" if how else ""))

    def rates(self, what, ours, theirs, unit="tok/s", how=""):
        text = lambda x: None if x is None else f"{x:,.0f} {unit}"  # noqa: E731
        self.row(what, text(ours), text(theirs), ours / theirs if ours and theirs else None, how)

    def times(self, what, ours, theirs, how=""):
        text = lambda x: None if x is None else f"{x:.3f} s"  # noqa: E731
        self.row(what, text(ours), text(theirs), theirs / ours if ours and theirs else None, how)

    def table(self):
        head = ("what", "grouper", self.args.theirs, "ratio", "how")
        widths = [max(len(r[i]) for r in [head] + self.rows) for i in range(4)]
        self.say(f"\n{self.environment}; {time.monotonic() - self.start:.0f} s in all")
        for r in [head] + self.rows:
            self.say(f"{r[0]:{widths[0]}}  {r[1]:>{widths[1]}}  {r[2]:>{widths[2]}}  {r[3]:>{widths[3]}}  {r[4]}".rstrip())
        for what, why in self.skipped:
            self.say(f"skipped {what}: {why}")

    # Grouper.
    def grouper(self, *arguments, seconds=None):
        """The lines that `grouper bench ...` prints, also those before it failed or its time was over. Nothing of torch's should be in the GPU's memory."""
        if self._grouper_missing:
            return []
        if not os.path.isfile(self.args.grouper):
            self._grouper_missing = True
            self.skip("grouper", f"no binary at {self.args.grouper} (--grouper or $GROUPER)")
            return []
        command = [self.args.grouper, "bench", *arguments]
        name = "grouper bench " + " ".join(arguments)
        allowed = self.left() - 5 if seconds is None else min(seconds, self.left() - 5)
        if allowed <= 0:
            self.skip(name, "no time left")
            return []
        started = time.monotonic()
        self.say("$ " + name)
        lines = []
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace")
            timer = threading.Timer(allowed, process.kill)
            timer.start()
            try:
                for line in process.stdout:
                    lines.append(line.rstrip("\n"))
                process.wait()
            finally:
                over = not timer.is_alive() and process.returncode != 0
                timer.cancel()
                if process.poll() is None:
                    process.kill()
                    process.wait()
            if over:
                self.skip(name, f"stopped after {time.monotonic() - started:.0f} s, {len(lines)} lines")
            elif process.returncode != 0:
                errors.seek(0)
                last = (errors.read().strip().splitlines() or ["no message"])[-1]
                self.skip(name, f"exit status {process.returncode}: {last[:300]}")
        return lines


NUMBER = r"(\d[\d,]*(?:\.\d+)?)"


def number_before(unit, line):
    """The last number before `unit` in a line, None if there is none."""
    found = re.findall(NUMBER + r"\s*" + unit, line)
    return float(found[-1].replace(",", "")) if found else None


def rollout_rates(lines, batches):
    """{batch: (tok/s, tokens/s of decoding alone)} of the lines of `bench rollout --batch a,b`, by their 'batch N', else by their order."""
    lines = [line for line in lines if number_before("tok/s", line) is not None]
    rates = {}
    for i, line in enumerate(lines):
        named = re.search(r"\bbatch (\d+)", line)
        batch = int(named.group(1)) if named else batches[i] if i < len(batches) else None
        decoding = re.search(r"decoding alone " + NUMBER, line)
        rates[batch] = number_before("tok/s", line), float(decoding.group(1).replace(",", "")) if decoding else None
    return rates


def last_number(unit, lines):
    found = [x for x in (number_before(unit, line) for line in lines) if x is not None]
    return found[-1] if found else None


def run(args):
    args.theirs = "transformers" if args.mode == "gpu" else "torch"
    try:
        import torch
    except ImportError as error:
        print(f"{args.mode}: {error}; python3 -m pip install torch transformers", file=sys.stderr)
        return 1
    if not args.tiny and not torch.cuda.is_available():
        print(f"{args.mode}: torch {torch.__version__} sees no GPU (--tiny tries the script without one)", file=sys.stderr)
        return 1
    report = Report(args)
    report.environment = f"{'CPU, tiny shapes' if args.tiny else torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}"
    report.say(report.environment)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        importlib.import_module("bench_reference." + {"gpu": "models", "gpu-kernels": "kernels"}[args.mode]).run(args, report)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        report.table()
    return 0
