from streamjob import udf


@udf(inputs=["hi", "lo", "window_end"], output={"spread": "float64", "wide": "bool"})
def spread(hi, lo, window_end):
    width = hi - lo
    return width, width > 10.0
