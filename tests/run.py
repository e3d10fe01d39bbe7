# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the tests in parallel and reports the results; called by script/test."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
LOGS = CACHE / "logs"
COLLECTIONS = CACHE / "collections"
NAME = "alwayson.hermes"

# Scenarios that need another Ansible than the one in .venv; they get the collection as users do, from the built
# archive.
ENVIRONMENTS = {"oldest": "core-2.17"}
# The order of the start: longest first, as measured, so that no long job is left alone at the end. unit comes early,
# because it needs no host: on a clean machine the first two make the images that all others wait for.
ORDER = (
    "update",
    "operate",
    "unit",
    "runtimes",
    "tenants",
    "replace",
    "tailscale",
    "image",
    "agents",
    "data_volume",
    "refuse",
    "sources",
    "fleet",
    "default",
    "adopt",
    "oldest",
    "sanity",
    "secrets",
    "kernel",
)
# Jobs that need a program that a machine may lack.
NEEDS = {"replace": "go", "tailscale": "go", "tenants": "go"}
# Environments with the versions of Hermes that unit tests compare with the kit.
HERMES = ("hermes-0.19.0", "hermes-0.18.2")

# Development files that are not part of the published collection; ansible-test does not check them.
WORKSHOP = (".ci", ".config", ".github", "bench", "molecule", "requirements", "script", "tests")

# The closing line of a pytest run, and the counts in it.
CLOSING = re.compile(r"^(?:=+ )?((?:\d+ \w+(?:, )?)+) in [\d.]+s.*$", re.M)
COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)")
SKIPPED = re.compile(r"^SKIPPED \[.*$", re.M)
FAILING = re.compile(r"(FAILED|ERROR) \S+::")
ANSI = re.compile(r"\x1b\[[0-9;]*m")
ANSIBLE_WARNING = re.compile(r"^\[(?:DEPRECATION )?WARNING\].*$", re.M)
TAIL_LINES = 60


class TestFailed(Exception):
    """A runner failed; its log says why."""


@dataclass
class Job:
    """One thing to test, with a log of its own.

    :param work: runs the test; raises :class:`TestFailed`
    """

    name: str
    work: Callable[[Job], None]
    reason: str = ""
    seconds: float = 0.0
    closings: list[str] = field(default_factory=list)
    skips: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def log(self) -> Path:
        return LOGS / f"{self.name.replace(' ', '-')}.log"

    def run(
        self, *command: str | Path, env: dict[str, str] | None = None, cwd: Path = ROOT, path: Sequence[Path] = ()
    ) -> str:
        """Run one command with its output in the log.

        :param env: variables in addition to the current environment
        :param path: directories to search for programs before the usual ones
        :returns: its output
        :raises TestFailed: when it fails
        """
        environment = {**os.environ, "NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1", "COLUMNS": "160", **(env or {})}
        environment.setdefault("LC_ALL", "C.UTF-8")
        before = [str(entry) for entry in (*path, ROOT / ".venv/bin")]
        environment["PATH"] = os.pathsep.join([*before, environment.get("PATH") or os.environ["PATH"]])
        with self.log.open("a+", encoding="utf-8", errors="replace") as log:
            log.write(f"$ {' '.join(map(str, command))}\n")
            log.flush()
            start = log.tell()
            done = subprocess.run(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=environment,
                check=False,
            )
            log.seek(start)
            output = ANSI.sub("", log.read())
        self.count(output)
        if done.returncode:
            raise TestFailed(f"{Path(command[0]).name} ended with status {done.returncode}")
        return output

    def run_all(self, *commands: Sequence[str | Path]) -> None:
        """Run all of *commands* even when one fails: their findings are independent."""
        failures = []
        for command in commands:
            try:
                self.run(*command)
            except TestFailed as failure:
                failures.append(str(failure))
        if failures:
            raise TestFailed("; ".join(failures))

    def count(self, output: str) -> None:
        for closing in CLOSING.finditer(output):
            self.closings.append(closing[0])
            for number, word in COUNT.findall(closing[1]):
                self.counts[{"error": "failed", "errors": "failed"}.get(word, word)] += int(number)
        self.skips += [f"{self.name}: {line}" for line in SKIPPED.findall(output)]

    def __call__(self) -> None:
        self.log.unlink(missing_ok=True)
        started = time.monotonic()
        try:
            self.work(self)
        except TestFailed as failure:
            self.reason = str(failure)
        except Exception as error:  # a defect of this program must not count as a passed test
            self.reason = f"{type(error).__name__}: {error}"
        self.seconds = time.monotonic() - started
        if not self.counts:
            self.counts["failed" if self.reason else "passed"] += 1
        elif self.reason and not self.counts["failed"]:
            self.counts["failed"] += 1


# --- the jobs --------------------------------------------------------------------------------------------------


def unit(job: Job) -> None:
    # Debian's programs that are tried for real.
    programs = ("logrotate", "nginx=nginx+libnginx-mod-http-js", "restic", "mkfs.xfs=xfsprogs")
    job.run(sys.executable, ROOT / "tests/hosts/box.py", "packages", *programs)
    for name in HERMES:
        job.run(ROOT / "script/bootstrap", name)
    hermes = os.pathsep.join(str(CACHE / "venv" / name) for name in HERMES)
    job.run("pytest", "--numprocesses=2", "--durations=20", "tests/unit", env={"TEST_HERMES_VENVS": hermes})


def fuzz(job: Job) -> None:
    """Look for new examples against the property tests."""
    for name in HERMES:
        job.run(ROOT / "script/bootstrap", name)
    hermes = os.pathsep.join(str(CACHE / "venv" / name) for name in HERMES)
    try:
        job.run(
            *("pytest", "--numprocesses=2", "-m", "hypothesis", "--hypothesis-profile=search", "tests/unit"),
            env={"TEST_HERMES_VENVS": hermes},
        )
    except TestFailed as failure:
        raise TestFailed(
            f"{failure}; put what follows 'Falsifying example' in the log above the test as "
            "@example(name=value, …), see the test fail in script/test unit, then repair"
        ) from None


def lint(job: Job) -> None:
    shell = [path for path in tracked() if (ROOT / path).is_file() and re.match(rb"#!.*\b(ba)?sh\b", head(ROOT / path))]
    job.run_all(
        ("ruff", "check"),
        ("ruff", "format", "--check"),
        ("shellcheck", "--external-sources", *shell),
        ("antsibull-changelog", "lint"),
        ("ansible-lint",),
    )


def sanity(job: Job) -> None:
    """ansible-test needs a real directory …/ansible_collections/alwayson/hermes, not a link."""
    base = CACHE / "ansible-test"
    target = base / "ansible_collections" / NAME.replace(".", "/")
    shutil.rmtree(target, ignore_errors=True)
    for name in tracked():
        if not name.startswith(tuple(f"{part}/" for part in WORKSHOP)) or name == "tests/config.yml":
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    # ansible-test asks git for the files, and must not find this checkout's repository.
    job.run("git", "init", "--quiet", ".", cwd=target)
    job.run("git", "add", "--force", ".", cwd=target)
    provide_pip(job, base)
    job.run(
        "ansible-test",
        "sanity",
        "--color=no",
        env={"HOME": str(base / "home"), "PATH": working_pythons(), "PIP_QUIET": "1"},
        cwd=target,
    )


def provide_pip(job: Job, base: Path) -> None:
    """ansible-test downloads a get-pip.py for its environments: put one into its cache that needs no network."""
    lock = ROOT / "requirements/sanity.txt"
    version = re.search(r"^pip==([\d.]+)", lock.read_text(), re.M)[1]
    wheel = base / f"pip-{version}"
    if not wheel.is_dir():
        job.run("uv", "--system-certs", "pip", "install", "--require-hashes", "--target", wheel, "--requirement", lock)
    bootstrap = base / "home/.ansible/test/cache" / f"get_pip_{version.replace('.', '_')}.py"
    bootstrap.parent.mkdir(parents=True, exist_ok=True)
    bootstrap.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(wheel)!r})\n"
        "from pip._internal.cli.main import main\n"
        "wanted = [word for word in sys.argv[1:] if not word.startswith('--no-')]\n"
        "sys.exit(main(['install', '--quiet', '--ignore-installed', *wanted]))\n"
    )


def working_pythons() -> str:
    """A search path without directories whose Pythons do not start, plus the Pythons that pyenv keeps.

    ansible-test tries every pythonX.Y that it finds, and fails on a shim without a target.
    """
    directories = [Path(entry) for entry in os.environ["PATH"].split(os.pathsep) if entry]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    directories += sorted(pyenv.glob("versions/3.*/bin"))

    def works(python: Path) -> bool:
        return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0

    return os.pathsep.join(str(entry) for entry in directories if all(map(works, entry.glob("python3.[0-9]*[0-9]"))))


def docs(job: Job) -> None:
    """The pages in docs/, and the reference of modules and roles generated from their own documentation."""
    source, target = CACHE / "docs" / "source", CACHE / "docs" / "html"
    for directory in (source, target):
        shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(ROOT / "docs", source)
    (source / "reference").mkdir()
    environment = {"ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS)}
    job.run(
        *("antsibull-docs", "collection", "--use-current", "--squash-hierarchy", "--fail-on-error"),
        *("--dest-dir", source / "reference", NAME),
        env=environment,
    )
    job.run("antsibull-docs", "lint-collection-docs", "--plugin-docs", "--skip-rstcheck", ".", env=environment)
    job.run("sphinx-build", "--fail-on-warning", "--keep-going", "--quiet", source, target, env=environment)


def install_archive(job: Job, target: Path) -> None:
    """Build the collection and install the archive below *target*, as a user would."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    job.run("ansible-galaxy", "collection", "build", "--output-path", target, ".")
    (archive,) = target.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        stray = sorted(
            {name.split("/")[0] for name in content.getnames()} & {*WORKSHOP, "pyproject.toml", "ansible.cfg"}
        )
    if stray:
        raise TestFailed(f"the archive carries what users do not need: {', '.join(stray)}")
    job.run("ansible-galaxy", "collection", "install", "--offline", "--collections-path", target, archive, cwd=target)


def package(job: Job) -> None:
    """The built archive, installed elsewhere, is complete: modules have documentation, playbooks load."""
    target = CACHE / "package"
    install_archive(job, target)
    environment = {"ANSIBLE_COLLECTIONS_PATH": str(target)}
    modules = [f"{NAME}.{path.stem}" for path in sorted((ROOT / "plugins/modules").glob("*.py"))]
    documented = json.loads(job.run("ansible-doc", "--json", *modules, env=environment, cwd=target))
    if missing := set(modules) - set(documented):
        raise TestFailed(f"without documentation: {', '.join(sorted(missing))}")
    # Upstream's collection that makes clusters is no dependency: its double has the name of its playbook, no more.
    doubled = {"ANSIBLE_COLLECTIONS_PATH": os.pathsep.join((str(target), str(ROOT / "tests/fakes/collections")))}
    for playbook in sorted((ROOT / "playbooks").glob("*.yml")):
        job.run(
            *("ansible-playbook", f"{NAME}.{playbook.stem}", "--syntax-check", "--inventory", "localhost,"),
            env=doubled if playbook.stem == "cluster" else environment,
            cwd=target,
        )


def image(job: Job) -> None:
    """The image of an agent, built twice, and agents that run in it."""
    job.run(sys.executable, ROOT / "tests/hosts/box.py", "engine")
    job.run(ROOT / "script/bootstrap", "cyclonedx")
    job.run("pytest", "tests/image")


def kernel(job: Job) -> None:
    """What the kernel of this machine may lack, by Debian's in a virtual machine."""
    programs = ("qemu-system-x86_64=qemu-system-x86", "busybox=busybox-static", "mkfs.xfs=xfsprogs")
    job.run(sys.executable, ROOT / "tests/hosts/box.py", "packages", *programs)
    job.run("pytest", "tests/kernel")


def tenants(job: Job) -> None:
    """Tenants in a real API server of Kubernetes, and on real nodes."""
    if not lacks(job, "tenants"):
        job.run(sys.executable, ROOT / "tests/hosts/box.py", "engine")
        job.run(sys.executable, ROOT / "tests/hosts/box.py", "packages", "openssl")
        job.run("pytest", "--durations=5", "tests/tenants")


def lacks(job: Job, name: str) -> bool:
    """Whether the machine lacks what the job *name* needs; if so, that is said."""
    if name not in NEEDS or shutil.which(NEEDS[name]):
        return False
    job.counts["skipped"] += 1
    job.skips.append(f"SKIPPED, NOT PROVED: {job.name}, because there is no {NEEDS[name]}")
    return True


def scenarios() -> list[str]:
    return sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))


def molecule(name: str) -> Callable[[Job], None]:
    def work(job: Job) -> None:
        if lacks(job, name):
            return
        # The engine is started first, once for all scenarios.
        job.run(sys.executable, ROOT / "tests/hosts/box.py", "engine")
        path, environment = [], {"MOLECULE_COMMAND_BORDERS": "0", "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS)}
        if name in ENVIRONMENTS:
            job.run(ROOT / "script/bootstrap", ENVIRONMENTS[name])
            path = [CACHE / "venv" / ENVIRONMENTS[name] / "bin"]
            install_archive(job, CACHE / f"package-{name}")
            environment["ANSIBLE_COLLECTIONS_PATH"] = str(CACHE / f"package-{name}")
        output = job.run(
            *("molecule", "--base-config", ROOT / ".config/molecule/config.yml"),
            *("test", "--scenario-name", name),
            env=environment,
            path=path,
        )
        if changes := planned_after_converge(output):
            raise TestFailed(f"check mode on the converged host still wants to change something: {changes}")
        if warnings := sorted(set(ANSIBLE_WARNING.findall(output))):
            raise TestFailed("Ansible warned: " + "; ".join(warnings))

    return work


def planned_after_converge(output: str) -> str:
    """The changes that the last check run of a scenario plans: its recap lines with a change."""
    steps = re.split(r"^INFO\s+\[\S+ > (\w+)\] Executing$", output, flags=re.M)[1:]
    checks = [text for step, text in zip(steps[::2], steps[1::2]) if step == "check"]
    if len(checks) < 2:
        return ""
    return "; ".join(re.findall(r"^\S+ +: ok=.* changed=[1-9].*$", checks[-1], re.M))


# --- the rest --------------------------------------------------------------------------------------------------


def tracked() -> list[str]:
    """The files of the checkout that are not ignored, new ones too."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted({name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()})


def head(path: Path) -> bytes:
    with path.open("rb") as handle:
        return handle.readline(80)


PLAIN = {
    "unit": unit,
    "lint": lint,
    "sanity": sanity,
    "package": package,
    "docs": docs,
    "image": image,
    "kernel": kernel,
    "tenants": tenants,
}
# Run by name only.
EXTRA = {"fuzz": fuzz}


def jobs_for(what: str | None, scenario: str | None) -> list[Job]:
    if what and what != "molecule":
        return [Job(what, {**PLAIN, **EXTRA}[what])]
    jobs = [Job(f"molecule {name}", molecule(name)) for name in ([scenario] if scenario else scenarios())]
    if not what:
        jobs += [Job(name, work) for name, work in PLAIN.items()]
    places = {name: place for place, name in enumerate(ORDER)}
    return sorted(jobs, key=lambda job: places.get(job.name.split()[-1], len(ORDER)))


def report(job: Job, lock: threading.Lock) -> None:
    with lock:
        print(f"test: {job.name}: {'FAILED' if job.reason else 'ok'} ({job.seconds:.0f} s)", flush=True)
        if job.reason:
            lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines() if job.log.exists() else []
            for line in lines[-TAIL_LINES:]:
                print(f"    {line}")
            # Of a scenario there is more after them than the last lines.
            for line in filter(FAILING.match, lines[:-TAIL_LINES]):
                print(f"    {line}")
            print(f"    {job.name}: {job.reason}; all of it: {job.log.relative_to(ROOT)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="script/test",
        description="Run the tests, side by side; without an argument all of them. Logs go to .cache/logs/.",
        epilog="unit: kit, modules and filters. lint: ruff, shellcheck, ansible-lint, changelog. sanity: ansible-test. "
        "package: the built archive. docs: builds them. image: the image of an agent, and agents that run in it. "
        "tenants: tenants in a real API server of Kubernetes, and on real nodes. "
        "kernel: limits on the disk, in a virtual machine with a kernel that has them. "
        f"molecule: real hosts as containers with the real Hermes, scenarios: {', '.join(scenarios())}. fuzz: "
        "thousands of new examples for property tests; only when named. Docker's engine is installed and started where "
        "there is none.",
    )
    parser.add_argument("what", nargs="?", choices=[*PLAIN, "molecule", *EXTRA])
    parser.add_argument("scenario", nargs="?", choices=scenarios(), metavar="SCENARIO", help="one scenario of molecule")
    arguments = parser.parse_args()
    if arguments.scenario and arguments.what != "molecule":
        parser.error("only molecule has scenarios")
    jobs = jobs_for(arguments.what, arguments.scenario)
    LOGS.mkdir(parents=True, exist_ok=True)
    # Programs that start hundreds of times must not be compiled each time.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # One more than there are cores, because hosts often wait, for a time-out or for each other.
    workers = (os.cpu_count() or 1) + 1
    print(f"test: {', '.join(job.name for job in jobs)}; {workers} at a time, logs in .cache/logs/", flush=True)
    lock = threading.Lock()
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(job): job for job in jobs}
        for finished in as_completed(running):
            report(running[finished], lock)

    print()
    total: Counter[str] = Counter()
    for job in jobs:
        total += job.counts
        for line in job.skips:
            print(line)
    # The runners' own last lines come last, because other programs read them.
    for job in sorted(jobs, key=lambda job: bool(job.closings)):
        print(f"{job.name}: {'failed: ' + job.reason if job.reason else 'passed'}")
        for line in job.closings:
            print(line)
    failed = [job.name for job in jobs if job.reason]
    if failed:
        print(f"failed: {', '.join(failed)}")
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
