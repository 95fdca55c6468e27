"""The ground: tables of plug-ins, disk, fingerprints, hardware, devices, ranks. It imports nothing but errors."""
