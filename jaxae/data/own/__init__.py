"""Reading a user's own files as raw data sets.

`files` makes raw data sets from arrays, tables and folders of images, `series` from long series;
both read new files as the `schema` of a detector says. `labelled` reads rows with their classes.

Arrays: `arrays`, which `parts` finds in folders. Tables: `tables` holds columns by name, read from
`csv_files`, `weka_files` (ARFF, .ts) and Parquet; `labels` chooses the label column. Images:
`folders` says which files count and what their folders mean, `images` decodes them, `masks` finds
what is marked in them. Series: `times` finds their time, `windows` cuts them. For all kinds:
`class_names` says which classes are normal by their names, and `lines` divides what was read into
training and test rows.
"""
