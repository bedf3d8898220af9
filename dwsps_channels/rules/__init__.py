"""Topic rules: the policy that reads them from the database, and explanations of what they decide."""
