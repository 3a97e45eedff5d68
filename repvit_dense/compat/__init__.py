"""Every change this package makes to another library, one file each."""
