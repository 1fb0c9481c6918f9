"""``calif demo``: train, convert, run and compare, on real images, in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from converters.commands import common
from converters.commands.given import first_of
from converters.commands.report import add_details
from converters.commands.training import train_network
from converters.commands.training_settings import TrainingSettings
from converters.console.typed import command_line, today

__all__ = ["demo"]

_CHECKED = 5  # images that Brian2 runs as well
_DETAILED = 50  # images behind the report's numbers for each layer


def demo(
    dataset: Annotated[str, typer.Option(help="digits (ships with scikit-learn) or mnist.")] = "digits",
    data_root: common.DataRoot = None,
    levels: Annotated[int, typer.Option(min=1, help="Largest activation level.")] = 127,
    window: common.Windows = None,
    images: common.Count = None,
    seed: common.Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for what it writes.")] = Path("runs/demo"),
    json: common.Json = False,
) -> None:
    """Train LeNet-5, convert it, run it as spikes, and compare every count with the quantised network."""
    from converters.files.nir_file import read_file, write
    from converters.measuring.cross_checking import cross_check
    from converters.network import Network
    from converters.nir_export import to_nir
    from converters.reporting.page import write_report, write_run
    from converters.zoo.datasets import load
    from converters.zoo.named import load_checkpoint

    say = (lambda text: None) if json else common.say
    with common.progress_bar(json) as bar:
        say(f"1  training LeNet-5 on {dataset}: float, then quantised to {levels} levels, 8-bit weights")
        settings = TrainingSettings(dataset=dataset, levels=levels, seed=seed)
        trained = train_network(settings, folder=out, bar=bar, data_root=data_root)
        q, _ = load_checkpoint(trained["checkpoint"])
        data = first_of(load(dataset, "test", root=data_root), images)
        say(f"   float {100 * trained['float_accuracy']:.2f} %, quantised {100 * trained['quantised_accuracy']:.2f} %")
        steps = window or [8, 32, 127]
        path = out / f"lenet5-{Path(dataset).name}-{levels}-T{steps[-1]}.nir"
        write(path, to_nir(q, T=steps[-1]))
        say(f"2  converted, without tuning: wrote {path}")
        say(f"3  running {len(data)} test images, every spike of every neuron")
        rows = []
        written = read_file(path).network  # the longest window from the file itself
        assert written is not None
        for t in steps:
            network = written if t == steps[-1] else Network.from_graph(to_nir(q, T=t))
            rows.append(common.measured(network, q, data, bar=bar))
        say(f"4  running {_CHECKED} of them on snnTorch and in Brian2, and comparing every spike")
        report = cross_check(written, data.first(_CHECKED).pixels)
    result: dict[str, Any] = {
        "dataset": dataset,
        "network": "lenet5",
        "levels": levels,
        "weight_bits": trained["weight_bits"],
        "toolkit": trained["toolkit"],
        "seed": seed,
        "float_accuracy": trained["float_accuracy"],
        "quantised_accuracy": trained["quantised_accuracy"],
        "nir_file": str(path),
        "checkpoint": trained["checkpoint"],
        "windows": rows,
        "cross_check": report.summary(),
        "checks": [report.as_dict()],
        "report": str(out / "report.html"),
        "command": command_line(),
    }
    detailed = result | {"date": today()}
    add_details(detailed, q, None, dataset=dataset, data_root=data_root, images=_DETAILED, shown=3, json=json)
    write_run(detailed, out)
    write_report(detailed, result["report"])
    wrong = sum(r["count_mismatches"] for r in rows)
    if json:
        common.print_json(result)
    else:
        common.show(common.windows_table(f"LeNet-5 on {dataset}", rows))
        say(f"counts compared {sum(r['counts_compared'] for r in rows):,}, count mismatches {wrong}")
        say(
            f"snnTorch against Brian2: {report.spikes_compared:,} spikes compared, {report.spike_mismatches} differ, "
            f"largest membrane difference {max(r.membrane_difference for r in report.layers['brian2']):.2g}"
        )
        say("quantised: the same network at that window (scales grow by levels/T below T = levels)")
        say(f"5  report, for your browser: {result['report']}")
    if wrong or not report.equal:
        raise typer.Exit(1)
