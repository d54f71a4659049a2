"""`vaecli eval --embeddings`, `--neighbours`, `--clusters`: what lies close together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from vaecli.cli import options, outputs
from vaecli.cli.options import option
from vaecli.errors import DataError, UsageError
from vaecli.system import extras, files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vaecli.data.dataset import Images
    from vaecli.evaluation.evaluate import Evaluation
    from vaecli.evaluation.latent_space import Plane

PANEL = "Embeddings"
FORMATS = (".npy", ".parquet")
ROWS = 12
"""Images whose neighbours are drawn."""
COLUMNS = 12
"""Images in a row at most."""


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """The options about the mean of q(z|x) of each image."""

    embeddings: Annotated[
        Path | None,
        option(
            "Write the mean of q(z|x) of each image: .npy, or .parquet with paths and labels.",
            metavar="FILE",
            parser=options.home_path,
            panel=PANEL,
        ),
    ] = None
    neighbours: Annotated[
        int | None,
        option(
            "Write the N nearest others of each image, as neighbours.csv and neighbours.png.",
            metavar="N",
            panel=PANEL,
        ),
    ] = None
    clusters: Annotated[
        int | None,
        option(
            "Write what is in these images, in N groups by k-means, as clusters.csv and"
            " clusters.png.",
            metavar="N",
            panel=PANEL,
        ),
    ] = None
    projection: Annotated[
        Literal["pca", "umap"],
        option("How --plot brings images to two dimensions.", panel=PANEL),
    ] = "pca"

    def check(self, common: options.Common, plot: Path | None) -> None:
        """Refuse what cannot be done before any work."""
        options.require_at_least("--neighbours", self.neighbours, 1)
        options.require_at_least("--clusters", self.clusters, 2)
        if self.projection == "umap":
            if plot is None:
                raise UsageError("--projection needs --plot", "Name a picture with --plot.")
            extras.require("umap", "--projection umap")
        if self.embeddings is None:
            return
        if self.embeddings.suffix.lower() not in FORMATS:
            raise UsageError(
                f"--embeddings {self.embeddings}: its name must end in {' or '.join(FORMATS)}",
                "The suffix selects the format.",
            )
        if self.embeddings.suffix.lower() == ".parquet":
            extras.require("hub", f"--embeddings {self.embeddings}", ("pyarrow",))
        files.require_new([self.embeddings], force=common.force)

    @property
    def given(self) -> dict[str, object]:
        """What was asked for, by option."""
        asked = {
            "--embeddings": self.embeddings,
            "--neighbours": self.neighbours,
            "--clusters": self.clusters,
        }
        return {name: value for name, value in asked.items() if value is not None}

    def plane(self, result: Evaluation, seed: int) -> Plane | None:
        """The images in two dimensions, where that is not by PCA."""
        if self.projection == "pca":
            return None
        from vaecli.evaluation.latent_space import umap_plane

        return umap_plane(result.means.numpy(), seed=seed)

    def require_enough(self, count: int) -> None:
        """DataError for too few images."""
        for name, number in (("--neighbours", self.neighbours), ("--clusters", self.clusters)):
            least = 0 if number is None else number + (name == "--neighbours")
            if count < least:
                raise DataError(
                    f"{name} {number}: it needs {least:,} images, not {count:,}",
                    "Use a smaller number.",
                )

    def write(self, common: options.Common, result: Evaluation, images: Images, seed: int) -> None:
        """Write all that was asked for."""
        means = result.means.numpy()
        if self.embeddings is not None:
            files.save(self.embeddings, _encoded(self.embeddings, result, images))
            common.terminal.note(f"embeddings: {self.embeddings}")
        if self.neighbours is not None:
            _write_neighbours(common, means, images, self.neighbours)
        if self.clusters is not None:
            _write_clusters(common, means, images, self.clusters, seed)


def _encoded(path: Path, result: Evaluation, images: Images) -> bytes:
    from vaecli.evaluation import scores
    from vaecli.pictures.grid import encode_npy

    means = result.means.numpy()
    if path.suffix.lower() == ".npy":
        return encode_npy(means)
    columns = scores.columns(result, images, latents=False)
    about: dict[str, Any] = {
        name: columns[name] for name in ("index", "path", "label", "class") if name in columns
    }
    return scores.as_parquet(about | {"embedding": means})


def _write_neighbours(
    common: options.Common, means: NDArray[np.float32], images: Images, count: int
) -> None:
    import numpy as np

    from vaecli.evaluation import neighbours
    from vaecli.pictures import sheets

    found, names = neighbours.nearest(means, count), _names(images)
    rows = (
        {
            **_about(names, "index", "path", place),
            "rank": rank,
            **_about(names, "neighbour", "neighbour_path", other),
            "distance": f"{distance:.6g}",
        }
        for place in range(len(means))
        for rank, (other, distance) in enumerate(
            zip(found.places[place].tolist(), found.distances[place].tolist(), strict=True), 1
        )
    )
    shown = np.unique(np.linspace(0, len(means) - 1, ROWS).round().astype(np.int64))
    columns = 1 + min(count, COLUMNS - 1)
    places = np.column_stack([shown, found.places[shown, : columns - 1]])
    sheet = sheets.rows(
        _pixels(images, places.ravel()),
        columns,
        [_name(names, place) for place in shown.tolist()],
        "each image, and those nearest to it in the latent space",
    )
    _save(common, "neighbours", rows, sheet)


def _write_clusters(
    common: options.Common, means: NDArray[np.float32], images: Images, count: int, seed: int
) -> None:
    import numpy as np

    from vaecli.evaluation import neighbours
    from vaecli.pictures import sheets
    from vaecli.pictures.grid import BACKGROUND

    found, names = neighbours.groups(means, count, seed=seed), _names(images)
    rows = (
        {
            **_about(names, "index", "path", place),
            "cluster": group + 1,
            "distance": f"{distance:.6g}",
        }
        for place, (group, distance) in enumerate(
            zip(found.group.tolist(), found.distances.tolist(), strict=True)
        )
    )
    tiles = np.full((len(found.sizes), COLUMNS, *images.pixels.shape[1:]), BACKGROUND, np.uint8)
    titles = []
    for group, size in enumerate(found.sizes):
        nearest = found.nearest(group, COLUMNS)
        tiles[group, : len(nearest)] = _pixels(images, nearest)
        titles.append(f"cluster {group + 1}\n{size:,} {'images' if size > 1 else 'image'}")
    sheet = sheets.rows(
        tiles.reshape(-1, *tiles.shape[2:]),
        COLUMNS,
        titles,
        "images nearest to the centre of each group",
    )
    _save(common, "clusters", rows, sheet)


def _save(common: options.Common, name: str, rows: Any, sheet: Any) -> None:
    """Write NAME.csv and NAME.png."""
    from vaecli.evaluation import scores
    from vaecli.pictures.grid import encode_png

    table, picture = Path(f"{name}.csv"), Path(f"{name}.png")
    if not common.force:
        table, picture = outputs.free_name(table), outputs.free_name(picture)
    files.save(table, scores.as_csv(rows).encode())
    files.save(picture, encode_png(sheet))
    common.terminal.note(f"{name}: {table}, {picture}")


def _names(images: Images) -> list[str] | None:
    from vaecli.evaluation.scores import shown

    return None if images.paths is None else [shown(path) for path in images.paths]


def _name(names: list[str] | None, place: int) -> str:
    return f"image {place}" if names is None else names[place]


def _about(names: list[str] | None, index: str, path: str, place: int) -> dict[str, Any]:
    return {index: place} if names is None else {index: place, path: names[place]}


def _pixels(images: Images, places: NDArray[np.int64]) -> NDArray[np.uint8]:
    import numpy as np

    return np.concatenate(list(images.take(places).parts()))
