"""The mathematics of the papers: functions of tensors that know nothing of networks."""
