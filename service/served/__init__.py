"""The served folder: everything that a process needs to answer predictions, as files; control alone writes it.

    keys/keys.json               digests, scopes and models of issued keys
    names/<two digits>/<name>.json   the versions of a name: model ids, class priors, the default
    models/<id>/                 a served copy and its record; only of models that were asked for
    refused/<id>.json            why the model of an id does not answer now
    suspended/<digest>           files whose runs have ended their processes
    complete                     the number of the last change that is written; there once all names are

It is made anew at each start of the service, so that nothing in it must outlive a loss of power.
"""
