"""From a registered SeqIO task or mixture to batches of numpy arrays.

    providers   finds the task, gives it another vocabulary
    order       seeds of shards, and the order of a source for all of them
    shards      its examples as a tf.data pipeline, one for each data shard
    graphs      the same pipeline with less overhead; what cannot be saved
    plans       what of a task can be cached, and where the cache would be:
    prefix        the steps that are the same in every epoch
    numbering     the order of a source, without reading it
    materialize makes a cache of
    columns     files of numbers
    cached      finds the caches that fit, and their rows
    lookups     tasks that read them
    stream      packs and checks the rows of a shard; its state to go on from
    iterator    batches of all shards
    damage      where in which file a record is corrupt

`datasets.Dataset` is the way in.
"""
