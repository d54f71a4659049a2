"""The five commands, one file each: options to core to terminal."""
