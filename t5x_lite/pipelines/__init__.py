"""From a registered SeqIO task or mixture to batches of numpy arrays.

    providers   finds the task, gives it another vocabulary
    order       seeds of shards, and the order of a source for all of them
    shards      its examples as a tf.data pipeline, one for each data shard
    graphs      the same pipeline with less overhead; what cannot be saved
    iterator    packs and checks; batches, and the state to go on from
    damage      where in which file a record is corrupt

`datasets.Dataset` is the way in.
"""
