"""How the Keras package is called, whichever backend Keras runs on."""

import zlpr_tf


class KerasFunctions:
    def losses(self, logits, targets, **options):
        return zlpr_tf.zlpr_loss(targets, logits, **options)

    def terms(self, logits, targets, **options):
        return zlpr_tf.zlpr_terms(targets, logits, **options)

    def helper(self, name):
        return getattr(zlpr_tf, name)
