def collect(a,b): pass
