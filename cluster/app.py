"""The command line: composes a job's config, runs the job, turns errors into one line.

    picpoint JOB [KEY=VALUE ...] [--cfg] [--dry-run]
    picpoint report RUN|STUDY|RECORD ... [KEY=VALUE ...]
        JOB: render, cache-features, pretrain, finetune, probe, tune, evaluate, report, export,
             reproduce, demo
    picpoint submit JOB [KEY=VALUE ...] [--address URL] [--working-dir DIR | --image IMAGE]
    picpoint jobs list|logs|stop [ID] [--address URL]
    picpoint shards inspect|verify|stats DIR
    picpoint data prepare NAME --from PATH --out DIR
    picpoint import-weights FILE OUT [point_encoder=NAME ...]
    picpoint doctor [--image-encoder NAME [image_encoder.KEY=VALUE ...]]
    picpoint doctor --licenses | --sbom FILE | --cluster [ADDRESS] [--store URL]
    picpoint flops

Exit codes: 0 done; 1 a fault of picpoint; 2 a wrong command, key or value, or results in the way;
3 something is missing; 4 data is broken; 5 cannot be read, written or reached; 6 training or its
evaluation failed; 130 stopped by Ctrl-C. `submit` ends with the code of the job.
"""

import argparse
import importlib
import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from omegaconf import DictConfig

from cluster.compose import ConfigError, compose_config, load_job, to_yaml
from cluster.submit import add_parsers, manage, overrides_for_cluster, submit
from picpoint.datasets.names import CLOUDS_PER_SHARD, DATASET_NAMES


@dataclass(frozen=True, slots=True)
class _Command:
    job: str
    summary: str
    example: str
    # The setting that plain words are the list of; none are taken if empty.
    words: str = ""


# Each is configs/NAME.yaml, and cluster/jobs/NAME.py with the job's dataclass, describe and run.
_COMMANDS = {
    "render": _Command(
        "RenderJob", "render meshes into a shard set", "picpoint render source=meshes out=shards"
    ),
    "pretrain": _Command(
        "PretrainJob",
        "pre-train a point encoder on a shard set",
        "picpoint pretrain data.shards=shards out=run image_encoder=lite0 optim.lr=1e-3",
    ),
    "finetune": _Command(
        "FinetuneJob",
        "learn a task from labelled clouds, from scratch or from a pre-trained encoder",
        "picpoint finetune data.shards=modelnet40 out=tuned weights=encoder",
    ),
    "probe": _Command(
        "ProbeJob",
        "linear SVM, k-NN and few-shot on frozen features of labelled clouds",
        "picpoint probe weights=encoder data.shards=modelnet40 out=probe",
    ),
    "tune": _Command(
        "TuneJob",
        "run the trials of a study on Ray Tune, and table what they came to",
        "picpoint tune study=views shards=shards out=study",
    ),
    "cache-features": _Command(
        "CacheFeaturesJob",
        "ask the image encoder of every picture, once for all runs",
        "picpoint cache-features shards=shards out=features image_encoder=lite0",
    ),
    "evaluate": _Command(
        "EvaluateJob",
        "probe what pre-training runs have learned",
        "picpoint evaluate runs=[run] out=evaluation",
    ),
    "report": _Command(
        "ReportJob",
        "write a page and its tables of runs, results, studies and records",
        "picpoint report evaluation tuned scratch study out=report",
        words="sources",
    ),
    "export": _Command(
        "ExportJob",
        "write a run's point encoder and its model card, for picpoint.load",
        "picpoint export run=run out=encoder license=apache-2.0",
    ),
    "reproduce": _Command(
        "ReproduceJob",
        "run the commands of an experiment, from meshes to results",
        "picpoint reproduce experiment=paper meshes=ShapeNetCore.v2 clouds=clouds out=paper",
    ),
    "demo": _Command(
        "DemoJob", "the whole road on the shapes that come with picpoint", "picpoint demo seeds=3"
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(options)
    except ConfigError as error:
        print(f"picpoint: {error}", file=sys.stderr)
        return 2
    except BaseException as error:  # every error becomes one line and an exit code
        if options.traceback:
            traceback.print_exc()
        return _complain(error)


def _complain(error: BaseException) -> int:
    try:
        from cluster.exit_codes import exit_code
    except ImportError as broken:  # an installation without torch still tells its error
        print(f"picpoint: {error} (and {broken}; see picpoint doctor)", file=sys.stderr)
        return 1
    code, line = exit_code(error)
    print(f"picpoint: {line}", file=sys.stderr)
    return code


def _run(options: argparse.Namespace) -> int:
    _gather_words(options)
    match options.command:
        case "shards":
            from shards.__main__ import main as shards_main

            return shards_main([options.action, *options.arguments])
        case "doctor":
            return _doctor(options)
        case "flops":
            from cluster.flops import main as flops_main

            return flops_main()
        case "data":
            from cluster.data import main as data_main

            return data_main(options)
        case "import-weights":
            from cluster.import_weights import main as import_main

            return import_main(options.file, options.out, options.overrides, options.initialise)
        case "submit":
            overrides = overrides_for_cluster(options.job, options.overrides)
            config = compose_config(options.job.replace("-", "_"), overrides)
            load_command(options.job, config)
            return submit(options.job, overrides, config, options)
        case "jobs":
            return manage(options)
        case command:
            return _run_job(command, options)


def _doctor(options: argparse.Namespace) -> int:
    if options.image_encoder:
        from cluster.doctor_image import main as doctor_image_main

        return doctor_image_main(options.image_encoder, options.overrides)
    if options.overrides:
        raise ConfigError(f"{options.overrides[0]}: of which --image-encoder NAME?")
    if options.store and options.cluster is None:
        raise ConfigError(f"--store {options.store}: reached from where? Give --cluster, too")
    if options.cluster is not None:
        from cluster.doctor_cluster import main as doctor_cluster_main

        return doctor_cluster_main(options.cluster, options.insecure, options.store)
    if options.licenses:
        from cluster.doctor_licences import print_licences

        return print_licences()
    if options.sbom:
        from cluster.doctor_licences import write_bill

        return write_bill(options.sbom)
    from cluster.doctor import main as doctor_main

    return doctor_main()


def _run_job(name: str, options: argparse.Namespace) -> int:
    config = compose_config(name.replace("-", "_"), options.overrides)
    if options.cfg:
        print(to_yaml(config), end="")
        return 0
    module, job = load_command(name, config)
    if options.dry_run:
        print("\n".join(module.describe(job)))
        return 0
    module.run(job)
    return 0


def load_command(name: str, config: DictConfig) -> tuple[ModuleType, object]:
    """Give the module of a job and its settings, checked."""
    module = importlib.import_module(f"cluster.jobs.{name.replace('-', '_')}")
    return module, load_job(getattr(module, _COMMANDS[name].job), config)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; overrides may stand before and after options."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and (any(word.startswith("-") for word in rest) or "overrides" not in options):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    return options


def _gather_words(options: argparse.Namespace) -> None:
    """Put plain words into the setting that they are of, where a job has one."""
    job = _COMMANDS.get(getattr(options, "job", options.command))
    if job is not None and job.words:
        options.overrides = _words_as_override(options.overrides, job.words)


def _words_as_override(arguments: Sequence[str], key: str) -> list[str]:
    """Give plain words as the list that they are; the name of something there may hold a `=`."""
    words = [word for word in arguments if "=" not in word or Path(word).exists()]
    overrides = [override for override in arguments if override not in words]
    if not words:
        return overrides
    if any(override.partition("=")[0] == key for override in overrides):
        raise ConfigError(f"{words[0]}: say it once: as a word, or in {key}=[...]")
    quoted = ",".join('"' + word.replace('"', '\\"') + '"' for word in words)
    return [*overrides, f"{key}=[{quoted}]"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="picpoint", description="Pre-training of point-cloud encoders from rendered pictures."
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        job = commands.add_parser(
            name, help=command.summary, description=f"{command.summary}. Try: {command.example}"
        )
        word = f"{command.words.upper()}|KEY=VALUE" if command.words else "KEY=VALUE"
        job.add_argument("overrides", nargs="*", metavar=word, help="see --cfg for the keys")
        job.add_argument("--cfg", action="store_true", help="print the composed config and end")
        job.add_argument(
            "--dry-run", action="store_true", help="say what would be read, written and run"
        )
        job.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS)
    shards = commands.add_parser("shards", help="look at a shard set")
    shards.add_argument("action", choices=["inspect", "verify", "stats"])
    shards.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="DIR ...", help="folder or URL, options"
    )
    _add_data(commands)
    add_parsers(commands)
    _add_import_weights(commands)
    commands.add_parser("flops", help="parameters, FLOPs and clouds per second of the encoders")
    _add_doctor(commands)
    return parser


def _add_doctor(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    doctor = commands.add_parser("doctor", help="say what is present, what is not, and what to do")
    about = doctor.add_mutually_exclusive_group()
    about.add_argument("--image-encoder", metavar="NAME", help="load it, and say what it costs")
    about.add_argument(
        "--licenses", action="store_true", help="of dependencies, data and weights; flag what binds"
    )
    about.add_argument("--sbom", metavar="FILE", help="write what is installed, as CycloneDX JSON")
    about.add_argument(
        "--cluster",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="look at a Ray cluster: token, versions, nodes, GPUs",
    )
    doctor.add_argument("--store", default="", metavar="URL", help="--cluster: do nodes reach it?")
    doctor.add_argument("--insecure", action="store_true", help="--cluster: as in picpoint submit")
    doctor.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS)
    doctor.add_argument("overrides", nargs="*", metavar="image_encoder.KEY=VALUE")


def _add_data(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    summary = "turn a labelled data set into shards"
    example = "picpoint data prepare modelnet40_h5 --from /data --out modelnet40"
    parser = commands.add_parser("data", help=summary)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    prepare = actions.add_parser("prepare", help=summary, description=f"{summary}. Try: {example}")
    prepare.add_argument("name", choices=DATASET_NAMES, help="data set, layout and variant")
    prepare.add_argument("--from", dest="place", required=True, help="where it lies")
    prepare.add_argument("--out", required=True, help="folder or URL to write")
    prepare.add_argument(
        "--partial",
        action="store_true",
        help="take it with fewer clouds than were published, without meshes that cannot be read",
    )
    prepare.add_argument("--num-points", type=int, help="drawn of each mesh; 2048 if not given")
    prepare.add_argument(
        "--up",
        choices=["y", "z"],
        help="which axis of meshes and of a folder's clouds is up, where it is not the usual one",
    )
    prepare.add_argument(
        "--fold",
        type=int,
        help="of `rendered`, `sweethome3d` and `kicad`: which one is the test; 0 if not given",
    )
    prepare.add_argument("--holdout-unit", choices=["shape", "series"], help="of `rendered`")
    prepare.add_argument("--clouds-per-shard", type=int, default=CLOUDS_PER_SHARD)
    prepare.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS)


def _add_import_weights(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    summary = "turn a public checkpoint of DGCNN or PointNeXt into an encoder file"
    example = "picpoint import-weights model.1024.t7 dgcnn.pt point_encoder=dgcnn"
    parser = commands.add_parser(
        "import-weights", help=summary, description=f"{summary}. Try: {example}"
    )
    parser.add_argument("file", metavar="FILE", help="the checkpoint; only tensors are read of it")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="the encoder's shape")
    parser.add_argument(
        "--initialise",
        action="append",
        default=[],
        metavar="NAME",
        help="beginning of names that may keep their initial values",
    )
    parser.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS)


if __name__ == "__main__":
    sys.exit(main())
