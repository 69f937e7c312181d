"""What `itm compare` reads and shows: evaluated runs and audits in, tables, plots and one self-contained page out."""
