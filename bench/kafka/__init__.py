"""`./dev bench kafka`: producers and consumers beside a broker, through Tulle and other ways, in one lab."""
