"""The commands of `pockui`, a module for each group. Torch, OpenVINO and Panel are imported by the
functions that need them: `pockui --help` answers at once."""
