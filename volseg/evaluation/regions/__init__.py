"""What is measured on the labels of one segmentation and on their separate lesions: size, place, diameter, intensities, as records and tables."""
