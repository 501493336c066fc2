CREATE TABLE averages (sensor text, since timestamptz, n bigint, mean double precision, hi double precision);
CREATE TABLE newest (sensor text PRIMARY KEY, "timestamp" timestamptz, temperature double precision);
