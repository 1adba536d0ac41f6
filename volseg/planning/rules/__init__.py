"""The rules by which a dataset's numbers become those of a bundle; nnU-Net's (Isensee et al., Nature Methods 18:203-211, 2021) unless a docstring says otherwise."""
