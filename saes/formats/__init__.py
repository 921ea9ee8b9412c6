"""The file formats of other libraries, one file each; `saes.interchange` is their face."""

__all__: list[str] = []
