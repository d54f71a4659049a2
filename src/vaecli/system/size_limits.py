"""Size limits for untrusted input, checked before memory is allocated.

docs/security.md has them in a table, and a test compares the two.
"""

from __future__ import annotations

# images
MAX_IMAGE_BYTES = 256 * 2**20
"""Size of an image file, or of an image on stdin."""
MAX_IMAGE_PIXELS = 50_000_000
"""Width times height in an image's header; today's cameras have 50 million."""
MAX_PIXELS_PER_BYTE = 10_000
"""For images of more than a million pixels; a PNG of one colour reaches 8,256."""
MAX_TIFF_PAGES = 20_000
"""Pictures in one TIFF file; finding them takes time."""

# arrays and latents
MAX_ARRAY_HEADER_BYTES = 4096
"""Size of the header of a `.npy` file; numpy writes 118."""
MAX_ARRAY_IMAGES = 50_000_000
"""Images in one array file: each has an entry in memory."""
MAX_ARCHIVE_MEMBERS = 1000
"""Files in a `.npz`."""
MAX_TABLE_ROW_BYTES = 2**26
"""Size of a line in a `.csv` of pixels; an image of 3 million values takes 12 to 70 MB."""
MAX_PARQUET_FOOTER_BYTES = 2**26
"""Size of the footer of a Parquet file, which lists its columns and groups of rows."""
MAX_LATENTS_BYTES = 2**30
"""Size of a `.npy` file of latents."""
MAX_LATENTS_CSV_BYTES = 2**28
"""Size of a CSV file of latents; reading it takes several times as much memory."""

# archives of images
MAX_ARCHIVE_IMAGES = 5_000_000
"""Files in a `.zip` or `.tar` of images."""
MAX_ARCHIVE_DIRECTORY_BYTES = 2**28
"""Size of the list of files in a `.zip`; reading it takes several times as much memory."""
MAX_ARCHIVE_RATIO = 200
"""How many times its own size an archive of images may unpack to."""
MIN_ARCHIVE_BYTES = 2**30
"""Size that every archive of images may unpack to, whatever its own."""

# weights, and the JSON beside them
MAX_HEADER_BYTES = 2**20
"""Size of the header of a weights file; the default model's has 1,400."""
MAX_JSON_DEPTH = 32
"""Nesting depth of JSON; vaecli writes at most 5."""
MAX_CONFIG_BYTES = 2**16
"""Size of a manifest, and of a configuration file in TOML."""
MAX_RUN_CONFIG_BYTES = 2**20
"""Size of config.json, which may name many classes."""
MAX_CLASS_NAMES_BYTES = 2**19
"""Size of the names of a run's classes together; config.json contains them."""
MAX_METRICS_BYTES = 2**23
"""Size of metrics.csv: some 60,000 epochs."""
MAX_ORIGIN_BYTES = 2**23
"""Size of state/source.json: some 100,000 file names."""
MAX_PARAMETERS = 1_000_000_000
"""Parameters of a model, counted without allocating them."""
MAX_HIDDEN_LAYERS = 16
MAX_COMPONENTS = 1024
"""Gaussians of a mixture that is a prior; vaecli fits at most 100."""
MAX_CLASSES = 4096
"""Classes that a model can be conditioned on: each has its own rows of weights."""
MAX_CONDITION_BYTES = 2**18
"""Size of their names together; config.json contains them twice."""
MAX_PIXELS = 3 * 1024 * 1024
"""Channels times height times width of the images of a model."""
RANGES: dict[str, tuple[float, float]] = {
    "image_shape": (1, 4096),
    "hidden": (1, 65_536),
    "latent_dim": (1, 4096),
    "epochs": (1, 1_000_000),
    "batch_size": (1, 1_000_000),
    "beta": (0, 1_000_000),
    "warmup_epochs": (0, 1_000_000),
    "free_bits": (0, 1_000_000),
    "importance_samples": (1, 1_000_000),
    "seed": (0, 2**63 - 1),
    "patience": (0, 1_000_000),
    "border": (0, 255),
    "white_8": (1, 255),
    "white_16": (1, 65_535),
    "white_integer": (1, 2**53),
    "float_range": (-1e30, 1e30),
    "class_counts": (1, 2**40),
    "limit": (1, 2**40),
    "threads": (1, 1024),
}
"""Smallest and largest value of each number of a configuration, and of each element of a list."""
