"""``calif interop``: the network in simulators that this project did not write, spike for spike."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from converters.commands import common
from converters.commands.given import first_of, given
from converters.commands.own import check_own, count_or_path, images_or_own
from converters.errors import ConversionError
from converters.interop.names import EXACT, INSTALL, ROUTES, chosen_names, installed

if TYPE_CHECKING:
    from converters.interop.comparing import Row
    from converters.network import Network
    from converters.quantised import QuantGraph
    from converters.zoo.datasets import Images

__all__ = ["interop"]


def interop(
    target: common.Target = None,
    checkpoint: common.Checkpoint = None,
    dataset: common.Dataset = None,
    data_root: common.DataRoot = None,
    window: common.Window = None,
    images: Annotated[
        str,
        typer.Option(
            help="How many test images the exact routes run; or your own: a .npy file, a picture, a folder of pictures."
        ),
    ] = "2",
    plain_images: Annotated[
        int, typer.Option(min=1, help="How many plain_if runs, whose accuracy is of interest; at least --images.")
    ] = 200,
    route: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(ROUTES)}; may be repeated; all by default.")
    ] = None,
    simulator: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(INSTALL)}; may be repeated; all that are installed by default."),
    ] = None,
    stock: Annotated[
        Path | None, typer.Option(help="A file of calif lower --target chain to run, instead of lowering now.")
    ] = None,
    allow_large: common.AllowLarge = False,
    json: common.Json = False,
) -> None:
    """Run the network in every installed simulator and compare every spike. Exit 1 if an exact route differs.

    Routes: lowered (stock NIR nodes, target chain), native (the CaLIF node in the simulator's executor), and plain_if
    (one stock IF per neuron: what a naive export costs).
    """
    t = common.one_window(window)
    chosen = chosen_names(simulator or None, route or ())
    if not chosen:
        raise ConversionError("simulators", "none installed", 'pip install "calif-plugins[interop]"')
    routes = [r for r in ROUTES if not route or r in route]
    if stock is not None and "lowered" not in routes:
        raise ConversionError("--stock", f"route {', '.join(routes)}", "only the route lowered runs it")
    count, own = count_or_path(images)
    check_own(own, dataset)
    source = given(target, checkpoint, [t], allow_large=allow_large)
    graph, network = source.graph(t), source.network(t)
    most = None if count is None else max(count, plain_images if "plain_if" in routes else 1)
    data, name = images_or_own(source, None, own, dataset, data_root, noise=most)
    exact, data = first_of(data, count), data.first(most)
    labelled = bool((data.labels >= 0).any())  # random images are not
    per_simulator = sum(len(exact) if r in EXACT else len(data) for r in routes)
    from converters.interop.comparing import compare_with_simulators

    labels = data.labels if labelled else None
    with common.progress_bar(json) as bar:
        task = bar.add_task("comparing", total=per_simulator * len(chosen))

        def progress(simulator: str, route: str, n: int) -> None:
            bar.update(task, advance=n, description=f"{simulator}, {route}")

        rows = compare_with_simulators(
            graph, data.pixels, labels, routes=routes, simulators=chosen, stock=stock, exact_images=len(exact),
            network=network, progress=progress,
        )  # fmt: skip
    about = _reference(network, source.q, exact) | ({} if labelled else {"accuracy": None})
    missing = [{"simulator": s, "install": how} for s, how in INSTALL.items() if s not in installed()]
    if json:
        found = [asdict(r) for r in rows]
        common.print_json({"dataset": name, "network": source.name, **about, "rows": found,
                           "missing": missing})  # fmt: skip
    else:
        common.show(_table(f"{source.name} on {name}, T = {about['T']}", rows))
        wrong, compared = about["count_mismatches"], about["counts_compared"]
        common.say(
            f"reference: {about['spikes']:,} spikes in {about['images']} images, {about['negative']:,} of them "
            f"negative; {wrong} of {compared:,} final counts differ from the {about['compared_with']}"
        )
        for r in rows:
            if r.note:
                common.say(f"{r.simulator}, {r.route}: {r.note}")
        for m in missing:
            common.say(f"{m['simulator']} is not installed: {m['install']}")
    if any(r.failed for r in rows) or about["count_mismatches"]:
        raise typer.Exit(1)


def _reference(network: Network, q: QuantGraph | None, data: Images) -> dict[str, Any]:
    """That the reference simulation ends on the quantised network's integers; then others are held against it."""
    from converters.measuring.measure import measure

    m = measure(network, q, data, backend="snntorch")
    return {
        "T": m.window,
        "images": m.images,
        "spikes": m.positive + m.negative,
        "negative": m.negative,
        "counts_compared": m.counts_compared,
        "count_mismatches": m.count_mismatches,
        "compared_with": "quantised network's integers" if q is not None else "closed form",
        "accuracy": m.snn_accuracy,
    }


def _table(title: str, rows: list[Row]) -> Any:
    columns = [
        "simulator",
        "version",
        "route",
        "layers",
        "images",
        "spikes\ncompared",
        "differing",
        "accuracy",
        "seconds",
    ]
    cells = [
        [
            r.simulator,
            r.version,
            r.route,
            str(r.layers),
            str(r.images),
            "-" if r.spikes_compared is None else f"{r.spikes_compared:,}",
            "did not run" if r.differing is None else f"{r.differing:,}",
            "-" if r.accuracy is None else f"{100 * r.accuracy:.2f}%",
            "-" if r.seconds is None else f"{r.seconds:.1f}",
        ]
        for r in rows
    ]
    return common.table(title, columns, cells)
