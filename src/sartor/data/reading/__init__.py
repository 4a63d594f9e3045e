"""From the bytes of a file to rows: lines, arrays, tables, Parquet, gzip."""
