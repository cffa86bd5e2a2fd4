"""The command line: ``foreblocks-darts search --data X.csv --lookback 336 --horizon 96``."""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence

from .._core.errors import DartsError
from .._core.memory import keep_freed_memory
from ..config import COMPILE_MODES, EVERYDAY_SEARCH, PERTURBATIONS, RELAXATIONS, SEARCH_BASELINES
from .arguments import ArgumentFile, add_resume, run_folder, stored_arguments
from .export import add_export
from .predict import add_predict
from .show import add_show
from .sources import add_data_arguments, read_frame

# Arguments whose default is that of a keyword.
_USUAL = {
    "candidates": "num_candidates", "top_k": "top_k", "trial_steps": "trial_steps", "finalists": "finalists",
    "search_epochs": "search_epochs", "final_epochs": "final_epochs", "patience": "final_patience",
    "max_train_batches": "max_train_batches", "final_max_train_batches": "final_max_train_batches",
    "loss": "loss_type", "learning_rate": "final_learning_rate",
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 2 for bad input, 130 after an interrupt, 143 after SIGTERM."""
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal or a redirection cannot write is escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        return arguments.run(arguments)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (DartsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("interrupted; 'foreblocks-darts resume' goes on with what is in the run folder.", file=sys.stderr)
        return 128 + int(stop.args[0] if stop.args else signal.SIGINT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="foreblocks-darts", description="Find a forecasting network for a time series.", allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    search = commands.add_parser(
        "search", help="search, retrain and compare with baselines", allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    search.set_defaults(run=_search)
    data = search.add_argument_group("data")
    add_data_arguments(data)
    data.add_argument("--lookback", type=int, default=96, help="input steps L")
    data.add_argument("--horizon", type=int, default=24, help="forecast steps H")
    data.add_argument("--targets", nargs="+", help="columns to forecast; default: all but --future-columns")
    data.add_argument("--future-columns", nargs="+", help="columns that are known for the horizon; default: none")
    data.add_argument("--period", type=int, help="steps of a season, for the seasonal naive; default: by the dates")
    size = search.add_argument_group("size of the search")
    size.add_argument("--candidates", type=int, help="candidates that are sampled and screened")
    size.add_argument("--top-k", type=int, help="candidates that are searched")
    size.add_argument("--trial-steps", type=int, help="steps of the training that orders them; 0: none")
    size.add_argument("--finalists", type=int, help="searched candidates that are retrained and blended")
    size.add_argument("--derive", default="argmax", help="argmax: what the alphas say; perturb: what is missed most")
    size.add_argument(
        "--no-duel", action="store_true", help="retrain what was found, however a short training of it goes"
    )
    size.add_argument("--search-epochs", type=int, help="epochs of the last rung")
    size.add_argument("--final-epochs", type=int, help="epochs of the final training")
    size.add_argument("--patience", type=int, help="epochs without gain before the final training stops")
    size.add_argument("--batch-size", type=int, default=32, help="windows in a batch")
    size.add_argument("--max-train-batches", type=int, help="batches in a search epoch")
    size.add_argument("--final-max-train-batches", type=int, help="batches in a final epoch; 0: all")
    size.add_argument("--hidden-dims", type=int, nargs="+", default=[32], help="widths a candidate may have")
    size.add_argument("--ops", nargs="+", help="ops a candidate may use; default: all sixteen")
    size.add_argument("--arch-modes", nargs="+", help="sequence parts a candidate may have; default: all four")
    size.add_argument("--channel-modes", nargs="+", help="mixed, independent, variate; default: all")
    size.add_argument("--loss", help="loss of search and final training")
    size.add_argument("--learning-rate", type=float, help="peak rate of the final training")
    search.set_defaults(**{argument: EVERYDAY_SEARCH[keyword] for argument, keyword in _USUAL.items()})
    method = search.add_argument_group("method of the search")
    method.add_argument("--relaxation", choices=RELAXATIONS, default="softmax", help="how logits become op weights")
    method.add_argument("--perturbation", choices=PERTURBATIONS, default="none", help="noise on alphas, weight steps")
    method.add_argument("--baseline", choices=SEARCH_BASELINES, help="a rival search with as many training steps")
    method.add_argument("--best-preset", action="store_true", help="retrain the best preset, unsearched, and test it")
    run = search.add_argument_group("run")
    run.add_argument("--seed", type=int, default=0, help="decides candidates, weights and batches")
    run.add_argument("--workers", type=int, default=2, help="worker processes of the search phases")
    run.add_argument("--threads", type=int, default=1, help="torch threads of each final training")
    run.add_argument("--compile", choices=COMPILE_MODES, default="none", help="edge: search steps by torch.compile")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda")
    run.add_argument("--run-dir", help="folder for the run; default: runs/<name>-<seed>, numbered")
    add_resume(commands, _resume)
    add_show(commands)
    add_predict(commands)
    add_export(commands)
    table = commands.add_parser("kernels", help="show which compiled kernels run here, and why not", allow_abbrev=False)
    table.set_defaults(run=_kernels)
    return parser


def _kernels(_arguments: argparse.Namespace) -> int:
    from ..kernels import report

    print(report())
    return 0


def _resume(a: argparse.Namespace) -> int:
    arguments = stored_arguments(_parser(), a.run_folder)
    if a.workers is not None:
        arguments.workers = a.workers
    return _search(arguments, resume=True)


def _search(a: argparse.Namespace, *, resume: bool = False) -> int:
    from ..data import prepare
    from ..data.prepare import describe
    from ..evaluation.report import format_result_table
    from ..trainer import DARTSTrainer
    from .interrupt import Interrupts
    from .progress import SearchProgress

    keep_freed_memory()
    frame, period = read_frame(a)
    prepared = prepare(
        frame, lookback=a.lookback, horizon=a.horizon, targets=a.targets, future_columns=a.future_columns or ()
    )
    folder = run_folder(a.run_dir, frame.name, a.seed)
    print(describe(prepared), f"run folder: {folder}", sep="\n")
    trainer = DARTSTrainer(len(prepared.channels), a.hidden_dims, a.horizon, a.lookback, a.device, a.ops, a.arch_modes)
    began = time.perf_counter()
    with SearchProgress() as progress, Interrupts() as interrupts:
        result = trainer.multi_fidelity_search(
            *prepared.loaders(a.batch_size, a.seed),
            num_candidates=a.candidates,
            top_k=a.top_k,
            search_epochs=a.search_epochs,
            final_epochs=a.final_epochs,
            max_workers=a.workers,
            seed=a.seed,
            run_dir=folder,
            resume=resume,
            max_train_batches=a.max_train_batches,
            max_val_batches=a.max_train_batches,
            trial_steps=a.trial_steps,
            derive=a.derive,
            duel=not a.no_duel,
            baseline=a.baseline,
            best_preset=a.best_preset,
            finalists=a.finalists,
            final_threads=a.threads,
            final_max_train_batches=a.final_max_train_batches or None,
            seasonal_period=period if a.period is None else a.period,
            scaler=prepared.recipe.to_dict(),
            loss_type=a.loss,
            final_loss_type=a.loss,
            relaxation=a.relaxation,
            perturbation=a.perturbation,
            compile=a.compile,
            final_learning_rate=a.learning_rate,
            final_patience=a.patience,
            callbacks=[progress, interrupts, ArgumentFile(a, folder)],
            space={"channel_modes": a.channel_modes} if a.channel_modes else None,
        )
    print(format_result_table(result))
    print(f"total: {time.perf_counter() - began:.0f} s")
    return 0
