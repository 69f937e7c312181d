"""What blind learners learn where a judge's logit joins theirs in the loss."""
